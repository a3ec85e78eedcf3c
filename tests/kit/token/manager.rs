//! A resource manager before a TPM in software, as the kernel's is: it lets its user have three objects, and answers a
//! command that would load a fourth one with an error of the device file.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Objects of one user: TPM2_SPACE of Linux, drivers/char/tpm/tpm2-space.c.
const OBJECTS_MAX: usize = 3;
/// Commands that load an object: TPM2_CreatePrimary, TPM2_Load, TPM2_ContextLoad, TPM2_LoadExternal.
const LOADING: [u32; 4] = [CREATE_PRIMARY, 0x157, 0x161, 0x167];
/// TPM2_CreatePrimary.
pub(crate) const CREATE_PRIMARY: u32 = 0x131;
const FLUSH_CONTEXT: u32 = 0x165;
/// TPM_RC_OBJECT_MEMORY.
const OBJECT_MEMORY: u32 = 0x902;

/// One that runs until its process ends.
pub(crate) struct Manager {
    commands: Arc<Mutex<Vec<u32>>>,
}

impl Manager {
    /// Stands before the TPM of a token directory from now on.
    pub(crate) fn before(directory: &Path) -> Manager {
        let file = directory.join("tcti");
        let tpm: u16 = fs::read_to_string(&file).unwrap().rsplit_once("port=").unwrap().1.trim().parse().unwrap();
        let (data, control) = (0..100).find_map(|_| pair()).expect("two ports side by side");
        let port = data.local_addr().unwrap().port();
        fs::write(file, format!("swtpm:host=127.0.0.1,port={port}")).unwrap();
        let commands = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&commands);
        std::thread::spawn(move || {
            for user in data.incoming() {
                // An end of either side, or of what it may have, ends the connection.
                let _ = serve(user.unwrap(), TcpStream::connect(("127.0.0.1", tpm)).unwrap(), &seen);
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
        Manager { commands }
    }

    /// How often this command came.
    pub(crate) fn count(&self, command: u32) -> usize {
        self.commands.lock().unwrap().iter().filter(|seen| **seen == command).count()
    }
}

fn pair() -> Option<(TcpListener, TcpListener)> {
    let data = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = TcpListener::bind(("127.0.0.1", data.local_addr().unwrap().port().checked_add(1)?)).ok()?;
    Some((data, control))
}

fn serve(mut user: TcpStream, mut tpm: TcpStream, seen: &Mutex<Vec<u32>>) -> io::Result<()> {
    let mut objects = BTreeSet::new();
    loop {
        let command = message(&mut user)?;
        let code = number(&command, 6);
        seen.lock().unwrap().push(code);
        tpm.write_all(&command)?;
        let answer = message(&mut tpm)?;
        if number(&answer, 6) == 0 {
            if LOADING.contains(&code) {
                objects.insert(number(&answer, 10));
            }
            if code == FLUSH_CONTEXT {
                objects.remove(&number(&command, 10));
            }
        }
        // This TPM has no room for a fourth object itself; one that has more is asked for it, and the manager refuses.
        let full = LOADING.contains(&code) && number(&answer, 6) == OBJECT_MEMORY;
        if full || objects.len() > OBJECTS_MAX {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        user.write_all(&answer)?;
    }
}

/// A command or an answer: two bytes of tag, four of the whole length, four of the code.
fn message(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 10];
    from.read_exact(&mut bytes)?;
    bytes.resize(number(&bytes, 2) as usize, 0);
    from.read_exact(&mut bytes[10..])?;
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}
