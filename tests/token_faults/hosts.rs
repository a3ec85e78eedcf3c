//! Token hosts that end, and such as talk nonsense: by a program that speaks what a host speaks, up to its answers.

use std::fs;
use std::path::Path;

use keyward::key::{Hash, KeyAlgorithm, KeyId};
use keyward::token::host::{HostProgram, HostToken};
use keyward::token::{Class, Failure, Generate, KeyRef, Outcome, Padding, Token};
use rustix::process::{Pid, Signal, kill_process};

use crate::kit::token::faulty::{Faulty, make};
use crate::kit::token::{Held, TestToken, USER_PIN, pin};
use crate::kit::{KEYWARD, eventually};

/// Opens nothing, says that it did, and gives the answer that is its argument to every call.
const TALKER: &str = r#"
import array, os, socket, sys, threading
control = socket.socket(fileno=os.dup(0))
def frame(source):
    read = source.recv(65537)
    if not read:
        os._exit(0)
    return read[1:]
frame(control)
channels = []
for _ in range(2):
    _, ancillary, _, _ = control.recvmsg(1, socket.CMSG_SPACE(4))
    channels.append(socket.socket(fileno=array.array("i", ancillary[0][2])[0]))
control.send(b"\0")
def serve(channel):
    while frame(channel):
        channel.send(bytes.fromhex(sys.argv[1]))
for channel in channels:
    threading.Thread(target=serve, args=(channel,), daemon=True).start()
control.recv(1)
"#;

/// Becomes the command of its arguments after the first, held beyond its end: a process that is traced is seen to end by
/// its parent only when its tracer lets it go, which this one does when the file of the first argument is gone, or a
/// minute has passed.
const HELD: &str = r#"
import ctypes, os, sys, time
PTRACE_SEIZE, PR_SET_PTRACER = 0x4206, 0x59616d61
libc, held = ctypes.CDLL(None), os.getpid()
# Where only parents trace their children, this one's child may.
libc.prctl(PR_SET_PTRACER, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
read, write = os.pipe()
if os.fork() == 0:
    os.close(0)
    assert libc.ptrace(PTRACE_SEIZE, held, None, None) == 0
    os.write(write, b"x")
    end = time.time() + 60
    while os.path.exists(sys.argv[1]) and time.time() < end:
        time.sleep(0.02)
    os._exit(0)
os.close(write)
assert os.read(read, 1)
os.execv(sys.argv[2], sys.argv[2:])
"#;

/// A frame around the bytes of an answer.
fn framed(answer: &[u8]) -> String {
    hex::encode([&[0], answer].concat())
}

type Ask = fn(&dyn Token, &KeyRef) -> Result<(), Failure>;

const ASK: [(&str, Ask); 5] = [
    ("describe", |token, _| token.describe().map(|_| ())),
    ("public_key", |token, key| token.public_key(key.id).map(|_| ())),
    ("sign", |token, key| token.sign(key, Hash::Sha256, &[7; 32]).map(|_| ())),
    ("decrypt", |token, key| token.decrypt(key, Padding::Pkcs1, &[7; 256]).map(|_| ())),
    ("generate", |token, _| {
        let (id, algorithm) = (KeyId::random().unwrap(), KeyAlgorithm::Rsa(2048));
        token.generate(&Generate { id, label: "talk".to_owned(), algorithm, sign: true, decrypt: true }).map(|_| ())
    }),
];

#[test]
fn a_host_that_talks_nonsense_is_killed_whatever_it_was_asked() {
    let faulty = Faulty::new();
    // Fields of an answer by number: 2 a public key, 3 an output, 4 JSON.
    let long = [&[0x1a, 0xac, 0x02][..], &[7; 300]].concat();
    for (answer, asked) in [
        ("ffffffff".to_owned(), &["describe", "public_key", "sign", "decrypt", "generate"][..]),
        (framed(&[0xff; 3]), &["describe", "public_key", "sign", "decrypt", "generate"]),
        (framed(b""), &["describe", "public_key", "sign", "generate"]),
        (framed(b"\x22\x08nonsense"), &["describe", "generate"]),
        (framed(b"\x12\x03abc"), &["public_key", "generate"]),
        (framed(b"\x1a\x01x"), &["sign"]),
        (framed(&long), &["sign", "decrypt"]),
    ] {
        for (name, ask) in ASK.iter().filter(|(name, _)| asked.contains(name)) {
            let arguments = ["-c", TALKER, &answer].map(Into::into).to_vec();
            let program = HostProgram { path: "python3".into(), arguments };
            let (binding, profile) = (&faulty.test.binding, &faulty.test.profile);
            let token = HostToken::start(program, binding, profile, pin(USER_PIN)).unwrap();
            let killed = token.pid().unwrap();
            let failure = ask(&token, &faulty.key).unwrap_err();
            assert_eq!((failure.class, failure.outcome), (Class::Module, Outcome::Unknown), "{name}: {failure}");
            assert!(failure.code.contains("makes no sense"), "{name}: {failure}");
            // What changes nothing was asked of the next one, too, and that was killed as well.
            assert_eq!(token.restarts(), if *name == "generate" { 1 } else { 2 }, "{name} {answer}");
            eventually("it is gone", || !Path::new("/proc").join(killed.to_string()).exists());
        }
    }
}

/// Children of this process that have ended and that nobody has heard of.
fn zombies() -> usize {
    let stats =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    let ours = std::process::id().to_string();
    // pid (name) state ppid …
    let is_one = |stat: &String| {
        let mut fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        fields.next() == Some("Z") && fields.next() == Some(&ours)
    };
    stats.filter(is_one).count()
}

#[test]
fn no_third_host_is_started_while_two_that_were_killed_do_not_end() {
    let test = TestToken::make("softhsm", Held::InHost);
    let held = test.binding.directory.as_ref().unwrap().join(format!("held-{}", test.binding.serial));
    fs::write(&held, "").unwrap();
    let arguments = ["-c".into(), HELD.into(), held.clone().into_os_string(), KEYWARD.into(), "token-host".into()];
    let program = HostProgram { path: "python3".into(), arguments: arguments.into() };
    let token = HostToken::start(program, &test.binding, &test.profile, pin(USER_PIN)).unwrap();
    let key = make(&token);
    let sign = || token.sign(&key, Hash::Sha256, &[7; 32]);
    let kill = || {
        let pid = token.pid().unwrap();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    };
    sign().unwrap();
    kill();
    // One that does not end keeps nobody waiting.
    sign().unwrap();
    kill();
    for _ in 0..3 {
        let failure = sign().unwrap_err();
        assert!(failure.code.contains("2 token hosts of under-test were killed and do not end"), "{failure}");
        assert_eq!((failure.class, token.pid()), (Class::Token, None));
    }
    fs::remove_file(&held).unwrap();
    eventually("it serves", || sign().is_ok());
}

#[test]
fn a_host_that_ended_is_reaped_though_nobody_asks_for_it() {
    let faulty = Faulty::new();
    for _ in 0..3 {
        faulty.sign().unwrap();
        let pid = faulty.token.pid().unwrap();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
        eventually("it is gone", || !Path::new("/proc").join(pid.to_string()).exists());
        assert_eq!((faulty.token.pid(), zombies()), (None, 0));
    }
    // Nor is one left that we ended ourselves.
    for fault in ["C_Sign 1 hang", "C_Sign 1 crash", "C_SignInit 1 logout"] {
        faulty.sign().unwrap();
        faulty.script(fault);
        assert!(faulty.verifies(&faulty.sign().unwrap()));
        eventually("none is left", || zombies() == 0);
    }
    drop(faulty);
    eventually("none is left", || zombies() == 0);
}
