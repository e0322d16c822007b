//! A flame graph as a page of its own: no file beside it, no request to anywhere.

use super::document::Document;

/// The look, shared by page, image and server.
pub(super) const STYLE: &str = include_str!("flame.css");
/// The behaviour, shared likewise.
pub(super) const SCRIPT: &str = include_str!("flame.js");

const PAGE: &str = include_str!("page.html");

impl Document {
    /// The look of a flame graph, for pages that embed one.
    #[must_use]
    pub const fn style() -> &'static str {
        STYLE
    }

    /// The behaviour of a flame graph, for pages that embed one.
    #[must_use]
    pub const fn script() -> &'static str {
        SCRIPT
    }

    /// The page.
    #[must_use]
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        // Markers are filled in their order, and what is put in for one is not searched for the next.
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

/// Text for HTML and XML, in content and in attributes. What XML cannot hold is replaced.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
