//! Aligns columns with tabs, as Go's text/tabwriter does with tabs as padding.

/// The distance of tab stops, in characters.
const TAB: usize = 8;

/// Writes rows of cells. Each cell except a row's last is padded to the width of its column. A column
/// is a run of adjacent rows in which that cell is not the last.
pub(super) fn align(rows: &[Vec<String>], out: &mut String) {
    let mut widths: Vec<Vec<usize>> = rows.iter().map(|r| vec![0; r.len().max(1) - 1]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut row = 0;
        while row < rows.len() {
            let run = widths[row..].iter().take_while(|w| w.len() > column).count();
            let widest = rows[row..row + run].iter().map(|r| r[column].chars().count()).max();
            let width = widest.map_or(0, |w| (w + 1).next_multiple_of(TAB));
            widths[row..row + run].iter_mut().for_each(|w| w[column] = width);
            row += run.max(1);
        }
    }
    for (row, widths) in rows.iter().zip(&widths) {
        for (column, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(column) {
                let missing = width.saturating_sub(cell.chars().count());
                out.extend(std::iter::repeat_n('\t', missing.div_ceil(TAB)));
            }
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aligned(rows: &[&[&str]]) -> String {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|r| r.iter().map(ToString::to_string).collect()).collect();
        let mut out = String::new();
        align(&rows, &mut out);
        out
    }

    #[test]
    fn columns_end_at_tab_stops() {
        let text = aligned(&[
            &["#", "0x4611a7", "main.work", "/a.go:1"],
            &["#", "0x46", "runtime.main", "/b.go:22"],
        ]);
        assert_eq!(text, "#\t0x4611a7\tmain.work\t/a.go:1\n#\t0x46\t\truntime.main\t/b.go:22\n");
    }

    #[test]
    fn a_row_with_fewer_cells_parts_the_columns() {
        let text =
            aligned(&[&["#", "0x1", "f", "x"], &["#", "0x2"], &["#", "0x12345678", "g", "y"]]);
        assert_eq!(text, "#\t0x1\tf\tx\n#\t0x2\n#\t0x12345678\tg\ty\n");
    }
}
