//! Hostile input: what must be refused, by which reason, and that refusing it is cheap.

use keyward::error::Reason;
use keyward::xrml::markup::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, DEPTH_MAX, ELEMENTS_MAX, NAME_BYTES_MAX};
use keyward::xrml::text::{Body, DOCUMENT_BYTES_MAX, DOCUMENTS_MAX, Document, documents};

use super::vectors;

fn refused(text: &str) -> Reason {
    Body::read(text).expect_err(&text.chars().take(80).collect::<String>()).reason()
}

fn body(inner: &str) -> String {
    format!("<BODY type=\"LICENSE\">{inner}</BODY>")
}

#[test]
fn markup_that_can_hide_or_add_text_is_forbidden() {
    for inner in [
        "<!-- x -->",
        "<![CDATA[x]]>",
        "<?x y?>",
        "<A>&euro;</A>",
        "<A>&#65;</A>",
        "<A>&#x41;</A>",
        "<A b=\"&nbsp;\" />",
        "<A b=\"&#10;\" />",
        "<BODY>x</BODY>",
        "<A><BODY>x</BODY></A>",
        "<XrML />",
        "<SIGNATURE />",
        "<BODYGUARD />",
        "<A xmlns=\"urn:x\" />",
        "<A xmlns:a=\"urn:x\" />",
        "<a:A />",
        "<:A />",
        "<A a:b=\"1\" />",
        "<A xml:a:b=\"1\" />",
        "<A xml:=\"1\" />",
        "<A xml:1a=\"1\" />",
    ] {
        assert_eq!(refused(&body(inner)), Reason::DocumentForbidden, "{inner}");
    }
    assert_eq!(refused(&format!("<!DOCTYPE x>{}", body(""))), Reason::DocumentForbidden);
    let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><BODY>&b;</BODY>";
    assert_eq!(refused(bomb), Reason::DocumentForbidden);
    assert_eq!(refused(&format!("<?xml version=\"1.0\"?>{}", body("<A />"))), Reason::DocumentForbidden);
}

#[test]
fn text_that_is_not_well_formed_is_malformed() {
    for inner in [
        "<A>",
        "</A>",
        "<A></B>",
        "<A><B></A></B>",
        "<A b=\"1\" b=\"2\" />",
        "<A b=1 />",
        "<A b />",
        "<A b=\"<\" />",
        "<A b=\"1\"c=\"2\" />",
        "<A b=\"1 />",
        "<1A />",
        "< A />",
        "<A b=\"x & y\" />",
        "<A>x & y</A>",
        "<A>]]></A>",
        "<A//>",
        "<A //>",
        "<A b=\"1\"//>",
        "<A b=\"1\" //>",
        "<A b=\"1\" / />",
        "<A>\u{0}</A>",
        "<A>\u{1b}</A>",
        "<A>\u{fffe}</A>",
        "<A>\u{ffff}</A>",
    ] {
        assert_eq!(refused(&body(inner)), Reason::DocumentMalformed, "{inner:?}");
    }
    for text in [
        "",
        "x",
        "<BODY>",
        " <BODY>x</BODY>",
        "<BODY>x</BODY> ",
        "<BODY>x</BODY><BODY>y</BODY>",
        "\u{feff}<BODY>x</BODY>",
    ] {
        assert_eq!(refused(text), Reason::DocumentMalformed, "{text:?}");
    }
}

#[test]
fn the_five_entities_and_any_unicode_are_text() {
    let text = body("<A b=\"&lt;&quot;&apos;\">&amp;&gt; имя 名前 \u{1F511}\r\n\t;</A>");
    let read = Body::read(&text).unwrap();
    assert_eq!(read.as_str(), text);
    let a = read.element().required("A").unwrap();
    assert_eq!(a.attribute("b").unwrap(), "<\"'");
    assert_eq!(a.content().unwrap(), "&> имя 名前 \u{1F511}\r\n\t;");
    let slashed = Body::read(&body("<A b=\"/\"/>")).unwrap();
    assert_eq!(slashed.element().required("A").unwrap().attribute("b").unwrap(), "/");
    assert!(Body::read(&body("<A xml:space=\"preserve\" xmlns=\"\">a:b</A>")).is_ok());
}

#[test]
fn the_scan_and_the_parser_must_find_the_same_body() {
    for text in ["<BODY />", "<BODY/>", "<BODY>x</BODY >", "<BODY>x</BODY\n>"] {
        assert_eq!(refused(text), Reason::DocumentIncomplete, "{text:?}");
    }
    let signature = vectors::document("mode2/ul.xml").signature().unwrap().outer().to_owned();
    let good = body("<A />");
    for (text, reason) in [
        (format!("<XrML>{good}{good}{signature}</XrML>"), Reason::DocumentIncomplete),
        (format!("<XrML>{good}{signature}{signature}</XrML>"), Reason::DocumentIncomplete),
        (format!("<XrML>{good}{signature}<A>{good}</A></XrML>"), Reason::DocumentIncomplete),
        (format!("<XrML><A>{good}</A>{good}{signature}</XrML>"), Reason::DocumentIncomplete),
        (format!("<XrML>{good}x{signature}</XrML>"), Reason::DocumentIncomplete),
        (format!("<XrML>{good}</XrML>"), Reason::DocumentIncomplete),
        (format!("<XrML xmlns=\"urn:x\">{good}{signature}</XrML>"), Reason::DocumentForbidden),
        (format!("<XrML><BODY xmlns=\"urn:x\"><A /></BODY>{signature}</XrML>"), Reason::DocumentForbidden),
        (format!("<XrML><!--{good}-->{good}{signature}</XrML>"), Reason::DocumentForbidden),
        (format!("<XrML><![CDATA[{good}]]>{good}{signature}</XrML>"), Reason::DocumentForbidden),
        (format!("<XrML>{}{signature}</XrML>", body(&format!("<A><![CDATA[{good}]]></A>"))), Reason::DocumentForbidden),
        (format!("<XrML>{}{signature}</XrML>", body(&format!("<A><!--{good}--></A>"))), Reason::DocumentForbidden),
        (format!("<!--{good}--><XrML>{good}{signature}</XrML>"), Reason::DocumentForbidden),
        (format!("<XrML a='{good}'>{good}{signature}</XrML>"), Reason::DocumentMalformed),
        (
            format!("<XrML>{}{signature}</XrML>", body(&format!("<XrML>{good}{signature}</XrML>"))),
            Reason::DocumentForbidden,
        ),
        (
            format!("<XrML>{good}{}</XrML>", signature.replace("<DIGEST>", &format!("{good}<DIGEST>"))),
            Reason::DocumentForbidden,
        ),
    ] {
        assert_eq!(Document::read(&text).unwrap_err().reason(), reason, "{}", &text[..60]);
    }
    assert!(Document::read(&format!("<XrML>\n{good}\n{signature}\n</XrML>")).is_ok());
    assert!(Document::read_unsigned(&format!("<XrML>{good}</XrML>")).is_ok());
}

#[test]
fn every_bound_holds_at_its_value_and_refuses_one_more() {
    let nested = |n: usize| body(&("<A>".repeat(n - 1) + &"</A>".repeat(n - 1)));
    let many = |n: usize| body(&"<A/>".repeat(n - 1));
    let attributes = |n: usize| body(&format!("<A {} />", (0..n).map(|i| format!("a{i}=\"\" ")).collect::<String>()));
    let name = |n: usize| body(&format!("<{} />", "n".repeat(n)));
    let value = |n: usize| body(&format!("<A b=\"{}\" />", "v".repeat(n)));
    let long = |n: usize| body(&"x".repeat(n - body("").len()));
    let bounds: [(&dyn Fn(usize) -> String, usize); 6] = [
        (&nested, DEPTH_MAX),
        (&many, ELEMENTS_MAX),
        (&attributes, ATTRIBUTES_MAX),
        (&name, NAME_BYTES_MAX),
        (&value, ATTRIBUTE_BYTES_MAX),
        (&long, DOCUMENT_BYTES_MAX),
    ];
    for (text, max) in bounds {
        assert!(Body::read(&text(max)).is_ok(), "{max}");
        assert_eq!(refused(&text(max + 1)), Reason::LimitExceeded, "{max}");
    }
    let run = |n: usize| format!("<XrML>{}</XrML>\n", body("<A />")).repeat(n);
    assert_eq!(documents(&run(DOCUMENTS_MAX)).unwrap().len(), DOCUMENTS_MAX);
    assert_eq!(documents(&run(DOCUMENTS_MAX + 1)).unwrap_err().reason(), Reason::LimitExceeded);
}

#[test]
fn a_million_attributes_and_a_hundred_thousand_levels_are_refused() {
    // A million attributes of different names are longer than any document; of the shortest, a document can have a million.
    let attributes: String = (0..1_000_000).map(|i| format!(" a{i}=\"\"")).collect();
    assert_eq!(refused(&body(&format!("<A{attributes} />"))), Reason::LimitExceeded);
    assert_eq!(refused(&body(&format!("<A{} />", &attributes[..7_000_000]))), Reason::LimitExceeded);
    assert_eq!(refused(&body(&format!("<A{} />", " a=''".repeat(1_000_000)))), Reason::DocumentMalformed);
    assert_eq!(refused(&body(&"<A>".repeat(100_000))), Reason::LimitExceeded);
    assert_eq!(refused(&body(&format!("<{} />", "n".repeat(1_000_000)))), Reason::LimitExceeded);
}
