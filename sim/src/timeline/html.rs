//! From a [`Timeline`] to one HTML page: styles, scripts and data are all in
//! it, and its policy forbids it to load anything.

use super::Timeline;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");

/// In this order, inside one function.
const SCRIPTS: [&str; 10] = [
    include_str!("page/data.js"),
    include_str!("page/time.js"),
    include_str!("page/bands.js"),
    include_str!("page/filter.js"),
    include_str!("page/layout.js"),
    include_str!("page/draw.js"),
    include_str!("page/panel.js"),
    include_str!("page/input.js"),
    include_str!("page/probe.js"),
    include_str!("page/main.js"),
];

/// The page that shows it.
pub fn html(timeline: &Timeline) -> String {
    let data = serde_json::to_string(timeline)
        .expect("a timeline has string keys and no failing serializer");
    let parts = [
        ("{{title}}", escaped(&timeline.title)),
        ("{{style}}", STYLE.to_owned()),
        ("{{data}}", embedded(&data)),
        ("{{script}}", SCRIPTS.concat()),
    ];
    let mut page = String::with_capacity(data.len() + 128 * 1024);
    let mut rest = PAGE;
    // One pass from left to right: what is put in is never looked at again.
    while let Some((at, (mark, part))) = parts
        .iter()
        .filter_map(|part| Some((rest.find(part.0)?, part)))
        .min_by_key(|(at, _)| *at)
    {
        page.push_str(&rest[..at]);
        page.push_str(part);
        rest = &rest[at + mark.len()..];
    }
    page.push_str(rest);
    page
}

/// JSON as the content of a script element: nothing in it can end the element
/// (HTML, 4.12.1.3) or a line of script.
fn embedded(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_data_can_end_the_element_that_holds_it() {
        let json = serde_json::json!({ "text": "</script><script>&\u{2028}" }).to_string();
        let embedded = embedded(&json);
        assert!(!embedded.contains(['<', '>', '&', '\u{2028}']));
        let read: serde_json::Value = serde_json::from_str(&embedded).unwrap();
        assert_eq!(read["text"], "</script><script>&\u{2028}");
    }

    #[test]
    fn a_title_is_text() {
        assert_eq!(escaped("<b> & \"c\""), "&lt;b&gt; &amp; &quot;c&quot;");
    }
}
