//! Carriers: encodings, declarations, SOAP.

use keyward::error::Reason;
use keyward::xrml::carrier::{self, CARRIER_BYTES_MAX};

use super::vectors;

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

#[test]
fn the_same_documents_come_out_of_every_encoding() {
    let text = vectors::text("mode2/ul.xml").replace("EXAMPLE-RMS", "サーバー \u{1F511}");
    let declared = |encoding: &str| format!("<?xml version=\"1.0\" encoding=\"{encoding}\"?>\r\n{text}\n");
    let marked = |mark: &[u8], bytes: Vec<u8>| [mark, &bytes].concat();
    let files = [
        text.clone().into_bytes(),
        declared("utf-8").into_bytes(),
        declared("UTF-16").into_bytes(),
        format!("<?xml version='1.0'?>{text}").into_bytes(),
        marked(b"\xEF\xBB\xBF", declared("utf-8").into_bytes()),
        marked(b"\xFF\xFE", utf16(&text, u16::to_le_bytes)),
        marked(b"\xFE\xFF", utf16(&declared("utf-16"), u16::to_be_bytes)),
        utf16(&declared("utf-16"), u16::to_le_bytes),
        utf16(&text, u16::to_be_bytes),
    ];
    for (at, file) in files.iter().enumerate() {
        let documents = carrier::read(file).unwrap();
        assert_eq!(documents.len(), 1, "file {at}");
        assert_eq!(documents[0].as_str(), text, "file {at}");
    }
}

#[test]
fn files_that_were_put_together_or_filled_up_hold_their_documents() {
    let (slc, ca) = (vectors::text("mode2/slc.xml"), vectors::text("mode2/ca.xml"));
    let declaration = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";
    for text in [
        format!("\u{FEFF}{slc}\n\u{FEFF}{ca}\n"),
        format!("{declaration}\n{slc}\n{declaration}\n{ca}\n"),
        format!("\u{FEFF}{declaration}\u{FEFF}{slc}\u{FEFF}{declaration}{ca}\0\0\0"),
    ] {
        let documents = carrier::read(text.as_bytes()).unwrap();
        assert_eq!(documents.iter().map(|d| d.as_str()).collect::<Vec<_>>(), [&slc, &ca]);
    }
    for text in [format!("{slc}\0{ca}"), format!("{slc}x{ca}"), format!("{slc}<?y?>{ca}")] {
        assert!(carrier::read(text.as_bytes()).is_err(), "{}", &text[text.len() - 60..]);
    }
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let surrogate = |unit: u16| [&b"\xFF\xFE"[..], &utf16("<XrML>", u16::to_le_bytes), &unit.to_le_bytes()].concat();
    let files = [
        b"<XrML>\xFF</XrML>".to_vec(),
        b"\xFF\xFE<\0X".iter().copied().chain([0, 0, 0]).collect(),
        surrogate(0xD800),
        surrogate(0xDC00),
        b"<?xml version=\"1.0\" encoding=\"iso-8859-1\"?><XrML />".to_vec(),
        b"<?xml version=\"1.0\"".to_vec(),
    ];
    for file in files {
        assert_eq!(carrier::read(&file).unwrap_err().reason(), Reason::DocumentMalformed, "{file:?}");
    }
    let long = vec![b' '; CARRIER_BYTES_MAX + 1];
    assert_eq!(carrier::read(&long).unwrap_err().reason(), Reason::LimitExceeded);
    assert_eq!(carrier::read(b"").unwrap_err().reason(), Reason::DocumentIncomplete);
}

#[test]
fn chains_in_soap_come_out_as_they_went_in() {
    for mode in ["mode1", "mode2"] {
        let names = ["sub-slc.xml", "slc.xml", "enrollment-service.xml", "enrollment-ca.xml", "ca.xml"];
        let expected: Vec<String> = names.iter().map(|name| vectors::text(&format!("{mode}/{name}"))).collect();
        for (message, skip) in [("enroll-response", 1), ("subenroll-response", 0)] {
            let file = std::fs::read(vectors::path(&format!("{mode}/messages/{message}.soap.xml"))).unwrap();
            let texts: Vec<String> = carrier::read(&file).unwrap().iter().map(|d| d.as_str().to_owned()).collect();
            assert_eq!(texts, expected[skip..], "{mode} {message}");
        }
    }
}

#[test]
fn documents_stand_inline_in_cdata_or_under_names_of_their_own() {
    let slc = vectors::text("mode2/slc.xml");
    let ca = vectors::text("mode2/ca.xml");
    let escaped = slc.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&#x3E;");
    for text in [
        format!("<A><Certificate>{slc}</Certificate><Certificate>{ca}</Certificate></A>"),
        format!("<A><!-- chain --><SLC>{escaped}</SLC><CACert>{ca}</CACert></A>"),
        format!("<A><string><![CDATA[{slc}]]></string><string>\n<![CDATA[{ca}]]></string></A>"),
        format!("<A><string>{slc}{ca}</string></A>"),
    ] {
        let documents = carrier::read_text(&text).unwrap();
        assert_eq!(documents.iter().map(|d| d.as_str()).collect::<Vec<_>>(), [&slc, &ca]);
    }
}

#[test]
fn what_looks_like_a_document_is_never_passed_over() {
    let (slc, ca) = (vectors::text("mode2/slc.xml"), vectors::text("mode2/ca.xml"));
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let (escaped, other) = (escape(&slc), escape(&ca));
    let read = |text: &str| carrier::read_text(text);
    for (text, documents) in [
        (format!("<A><string>{other}</string><string>&#xFEFF;{escaped}</string></A>"), 2),
        (format!("<A><string>{other}</string><string>\u{FEFF}\n{escaped}\n\u{FEFF}</string></A>"), 2),
        (format!("<A><string>{other}</string><string>about XrML &lt;1.2&gt;</string></A>"), 1),
        (format!("<!-- a chain --><A>{slc}</A><!-- ends -->\n"), 1),
        (format!("<!-- a chain -->{slc}\n{ca}"), 2),
    ] {
        assert_eq!(read(&text).unwrap().len(), documents, "{}", &text[..60]);
    }
    let prefixed = slc.replace("<XrML", "<q:XrML").replace("</XrML", "</q:XrML");
    for text in [
        format!("<A><string>{other}</string><string>x {escaped}</string></A>"),
        format!("<A><string>{other}</string><string>{}</string></A>", escape(&escaped)),
        format!("<A><string>{other}</string><string>{}</string></A>", escape(&prefixed)),
        format!("<A><string v=\"{}\">{other}</string></A>", escaped.replace('"', "&quot;")),
        format!("<A><C>{ca}</C><C>{prefixed}</C></A>"),
        format!("<A><C>{ca}</C><XrML /></A>"),
        format!("<A><C>{ca}</C><q:XrML/></A>"),
        format!("approved by the auditor {ca}"),
        format!("<A>{ca}</A> more junk"),
        format!("<A>{ca}</A><B>{slc}</B>"),
        format!("<A>{ca}</A><B />"),
        format!("<A /><B>{slc}</B>"),
        format!("<!-- a chain -->{ca}<B>{slc}</B>"),
        format!("<A>{ca}</A>{slc}"),
    ] {
        assert_eq!(read(&text).unwrap_err().reason(), Reason::DocumentMalformed, "{}", &text[text.len() - 60..]);
    }
    let wide = utf16(&format!("\r\n{slc}"), u16::to_le_bytes);
    assert_eq!(carrier::read(&wide).unwrap()[0].as_str(), slc, "white space tells UTF-16 as a bracket does");
    let wide = utf16(&format!("\n{slc}"), u16::to_be_bytes);
    assert_eq!(carrier::read(&wide).unwrap()[0].as_str(), slc);
}

#[test]
fn what_stands_around_documents_is_bounded_and_has_no_entities() {
    for (text, reason) in [
        ("<A></A>".to_owned(), Reason::DocumentIncomplete),
        ("<A>&x;</A>".to_owned(), Reason::DocumentForbidden),
        ("<!DOCTYPE A [<!ENTITY x \"y\">]><A />".to_owned(), Reason::DocumentForbidden),
        ("<A>".repeat(100), Reason::LimitExceeded),
        ("<A><XrML></A>".to_owned(), Reason::DocumentMalformed),
        (format!("<A><B>{}</B>", vectors::text("mode2/slc.xml")), Reason::DocumentMalformed),
        (
            format!("<A>{}</A>", "<string>&lt;XrML&gt;&lt;BODY&gt;&lt;/BODY&gt;&lt;/XrML&gt;</string>".repeat(65)),
            Reason::LimitExceeded,
        ),
    ] {
        assert_eq!(carrier::read_text(&text).unwrap_err().reason(), reason, "{}", &text[..text.len().min(60)]);
    }
}

#[test]
fn what_stands_around_documents_is_well_formed() {
    let slc = vectors::text("mode2/slc.xml");
    for around in [
        "<B b=\"1\" b=\"2\" />",
        "<B b=1 />",
        "<B b />",
        "<1B />",
        "<B//>",
        "<B b=\"<\" />",
        "<B b=\"a & b\" />",
        "<B b=\"&#1;\" />",
        "<B>\u{1}</B>",
        "<B>&#1;</B>",
        "<B>&#xFFFE;</B>",
        "<B>&#x110000;</B>",
        "<B>]]></B>",
        "<!-- a -- b -->",
        "<?xml version=\"1.0\"?>",
        "<?1 ?>",
        "<?XML a?>",
    ] {
        let text = format!("<A>{slc}{around}</A>");
        assert_eq!(carrier::read_text(&text).unwrap_err().reason(), Reason::DocumentMalformed, "{around}");
    }
    let soap = "<s:A xmlns:s=\"urn:a\" s:b=\"&#10;&amp;\"><?x y?><!-- a - b --><s:B />";
    assert_eq!(carrier::read_text(&format!("{soap}{slc}</s:A>")).unwrap()[0].as_str(), slc);
}

#[test]
fn line_ends_of_an_envelope_are_those_that_xml_hands_on() {
    let named = |end: &str| vectors::text("mode2/slc.xml").replace("EXAMPLE-RMS", &format!("two{end}lines"));
    let expected = named("\n");
    for end in ["\r\n", "\r", "\n"] {
        let slc = named(end);
        let escaped = slc.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        for content in [slc.clone(), format!("<![CDATA[{slc}]]>"), escaped] {
            let text = format!("<A>\r\n<string>{content}</string>\r\n</A>\r\n");
            assert_eq!(carrier::read_text(&text).unwrap()[0].as_str(), expected, "{end:?} {}", &content[..9]);
        }
        assert_eq!(carrier::read_text(&slc).unwrap()[0].as_str(), slc, "a document by itself is as it was received");
    }
    let kept = named("\r\n").replace('&', "&amp;").replace('<', "&lt;").replace('\r', "&#xD;");
    let read = carrier::read_text(&format!("<A><string>{kept}</string></A>")).unwrap();
    assert_eq!(read[0].as_str(), named("\r\n"), "a reference is no line end");
}
