//! Writes a flame graph as a self-contained HTML page.

use super::document::Document;

/// The style sheet of the page, the image and the server's pages.
pub(super) const STYLE: &str = include_str!("flame.css");
/// The script of the page, the image and the server's pages.
pub(super) const SCRIPT: &str = include_str!("flame.js");

const PAGE: &str = include_str!("page.html");

impl Document {
    /// The style sheet of a flame graph, for pages that embed one.
    #[must_use]
    pub const fn style() -> &'static str {
        STYLE
    }

    /// The script of a flame graph, for pages that embed one.
    #[must_use]
    pub const fn script() -> &'static str {
        SCRIPT
    }

    /// The flame graph as an HTML page.
    #[must_use]
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        // Markers are replaced in order, so that inserted text is not searched for markers.
        let mut out = String::new();
        let mut rest = PAGE;
        let data = self.json();
        for (marker, text) in [
            ("@title@", &*title),
            ("@style@", STYLE),
            ("@title@", &title),
            ("@data@", &data),
            ("@script@", SCRIPT),
        ] {
            let (before, after) = rest.split_once(marker).unwrap_or((rest, ""));
            out.push_str(before);
            out.push_str(text);
            rest = after;
        }
        out + rest
    }
}

/// Escapes text for HTML and XML content and attributes. Replaces characters that XML forbids.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable::line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
