//! What parsing and checking cost beside the bare hash and RSA verification of the same bytes, in the same run.
//!
//! Prints microseconds (median of the rounds), MiB/s, and for each case the peak of memory in use beyond the text.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use keyward::key::{Hash, RsaPublicKey};
use keyward::xrml::chain::{self, Pin};
use keyward::xrml::content::Content;
use keyward::xrml::pl::PublishingLicense;
use keyward::xrml::signature::{self, Root, Signature};
use keyward::xrml::text::{Body, Document};
use keyward::xrml::ul::UseLicense;
use keyward::xrml::value::SignatureBe;

/// Counts what is in use and its peak.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: every call goes on to the system's allocator unchanged; only numbers are kept.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn vector(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/vectors/mode2/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Median time of one call, over enough calls for a second or so.
fn median(mut call: impl FnMut()) -> Duration {
    let start = Instant::now();
    call();
    let once = start.elapsed().max(Duration::from_nanos(100));
    let rounds = (Duration::from_millis(600).as_nanos() / once.as_nanos()).clamp(7, 20_000);
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn peak_beyond(call: impl FnOnce()) -> usize {
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    call();
    PEAK.load(Ordering::Relaxed) - before
}

/// Hash and RSA of the same documents with nothing parsed: what nobody can do without.
fn bare(documents: &[(Body, Signature, RsaPublicKey)]) {
    for (body, parsed, key) in documents {
        let digest = signature::digest(body, parsed.digest.hash());
        black_box(&digest);
        signature::verify_digest(&parsed.digest, &parsed.value, key).unwrap();
    }
}

fn case(name: &str, texts: &[String], mut work: impl FnMut(&[String])) {
    let prepared: Vec<_> = texts
        .iter()
        .map(|text| {
            let document = Document::read(text).unwrap();
            let key = *Content::read(document.body()).unwrap().issuer.unwrap().key.unwrap();
            (document.body().clone(), Signature::read(document.signature().unwrap()).unwrap(), key)
        })
        .collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let (whole, floor) = (median(|| work(texts)), median(|| bare(&prepared)));
    let beyond = whole.saturating_sub(floor);
    let rate = bytes as f64 / whole.as_secs_f64() / 1024.0 / 1024.0;
    let memory = peak_beyond(|| work(texts)) as f64 / bytes as f64;
    println!(
        "{name:<24} {bytes:>9} bytes  whole {:>9.1} µs  hash+RSA {:>9.1} µs  beyond {:>8.1} µs  {rate:>6.0} MiB/s  memory {memory:.2} × text",
        whole.as_secs_f64() * 1e6,
        floor.as_secs_f64() * 1e6,
        beyond.as_secs_f64() * 1e6,
    );
}

/// Signs a changed BODY again with the server's test key.
fn signed(root: Root, body: &str) -> String {
    use base64::Engine;
    let pem: String = vector("keys/slc.pem").lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(pem).unwrap();
    let key = RsaKeyPair::from_pkcs8(&der).unwrap();
    let units: Vec<u8> = body.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut value = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &units, &mut value).unwrap();
    let body = Body::read(body).unwrap();
    signature::complete(root, &body, &signature::digest(&body, Hash::Sha256), &SignatureBe::new(value))
}

fn body_of(name: &str) -> String {
    Document::read(&vector(name)).unwrap().body().as_str().to_owned()
}

/// A publishing license with application data up to a size.
fn padded(size: usize) -> String {
    const REST: usize = 800; // root, signature and the tags around the filler
    let body = body_of("pl-online.xml");
    let filler = "QUJD".repeat((size - body.len() - REST) / 4);
    let data = format!("<AUTHENTICATEDDATA id=\"APPSPECIFIC\" name=\"X\">{filler}</AUTHENTICATEDDATA></BODY>");
    signed(Root::Client, &body.replacen("</BODY>", &data, 1))
}

/// A use license of the size of a real one with several rights.
fn use_license() -> String {
    let body = body_of("ul.xml");
    let view = &body[body.find("<VIEW>").unwrap()..body.find("</RIGHTSLIST>").unwrap()];
    let more = [view.replace("VIEW>", "EDIT>"), view.replace("VIEW>", "PRINT>")].concat();
    signed(Root::UseLicense, &body.replacen("</RIGHTSLIST>", &format!("{more}</RIGHTSLIST>"), 1))
}

fn main() {
    case("use license, 5 kB", &[use_license()], |texts| {
        let document = Document::read(&texts[0]).unwrap();
        let license = UseLicense::read(document.body()).unwrap();
        signature::verify(&document, license.issuer.key.as_ref().unwrap()).unwrap();
    });
    case("the same, as verify does", &[use_license()], |texts| {
        let document = Document::read(&texts[0]).unwrap();
        let findings = chain::check(std::slice::from_ref(&document), &[]);
        assert!(findings[0].is_good());
    });
    let names = ["ul.xml", "slc.xml", "enrollment-service.xml", "enrollment-ca.xml", "ca.xml"];
    let chain: Vec<String> = names.iter().map(|name| vector(name)).collect();
    let root = *Content::read(Document::read(&chain[4]).unwrap().body()).unwrap().issuer.unwrap().key.unwrap();
    let pins = [Pin::of(&root)];
    case("chain of five", &chain, |texts| {
        let documents: Vec<Document> = texts.iter().map(|text| Document::read(text).unwrap()).collect();
        assert!(chain::check(&documents, &pins)[0].is_pinned);
    });
    for (name, size) in [
        ("license, 45 kB", 45_000),
        ("license, 1 MiB", 1 << 20),
        ("license, 4 MiB", 4 << 20),
        ("license, 8 MiB", 8 << 20),
    ] {
        case(name, &[padded(size)], |texts| {
            let document = Document::read(&texts[0]).unwrap();
            let license = PublishingLicense::read(document.body()).unwrap();
            signature::verify(&document, license.server.key.as_ref().unwrap()).unwrap();
        });
    }
}
