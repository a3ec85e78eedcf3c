//! What stands between a user and a TPM in software, and makes of its answers what a test says.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

/// Bytes of the head of a command or an answer: two of the tag, four of the whole length, four of the code.
const HEAD: usize = 10;

/// Stands before the TPM of a token directory from now on, until its process ends. The user gets what `answer` makes of
/// each command and its answer, with what it keeps of the connection. The connection ends with an error, and with an
/// answer that is not as long as it says.
pub(crate) fn stand_before<K: Default>(
    directory: &Path,
    answer: impl Fn(&mut K, &[u8], Vec<u8>) -> io::Result<Vec<u8>> + Send + 'static,
) {
    let file = directory.join("tcti");
    let tpm: u16 = fs::read_to_string(&file).unwrap().rsplit_once("port=").unwrap().1.trim().parse().unwrap();
    let (data, control) = (0..100).find_map(|_| pair()).expect("two ports side by side");
    let port = data.local_addr().unwrap().port();
    fs::write(file, format!("swtpm:host=127.0.0.1,port={port}")).unwrap();
    std::thread::spawn(move || {
        for user in data.incoming() {
            // An end of either side ends the connection.
            let _ = serve(user.unwrap(), TcpStream::connect(("127.0.0.1", tpm)).unwrap(), &answer);
        }
    });
    std::thread::spawn(move || {
        for user in control.incoming() {
            let (mut user, mut tpm) = (user.unwrap(), TcpStream::connect(("127.0.0.1", tpm + 1)).unwrap());
            let (mut from, mut to) = (user.try_clone().unwrap(), tpm.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
            let _ = io::copy(&mut tpm, &mut user);
            let _ = user.shutdown(std::net::Shutdown::Both);
        }
    });
}

fn pair() -> Option<(TcpListener, TcpListener)> {
    let data = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = TcpListener::bind(("127.0.0.1", data.local_addr().unwrap().port().checked_add(1)?)).ok()?;
    Some((data, control))
}

fn serve<K: Default>(
    mut user: TcpStream,
    mut tpm: TcpStream,
    answer: &impl Fn(&mut K, &[u8], Vec<u8>) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut kept = K::default();
    loop {
        let command = message(&mut user)?;
        tpm.write_all(&command)?;
        let answer = answer(&mut kept, &command, message(&mut tpm)?)?;
        user.write_all(&answer)?;
        if answer.len() < HEAD || number(&answer, 2) as usize != answer.len() {
            return Ok(());
        }
    }
}

/// A command or an answer.
fn message(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEAD];
    from.read_exact(&mut bytes)?;
    bytes.resize(number(&bytes, 2) as usize, 0);
    from.read_exact(&mut bytes[HEAD..])?;
    Ok(bytes)
}

/// The four bytes at this place.
pub(crate) fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}
