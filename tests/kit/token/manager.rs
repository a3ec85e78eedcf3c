//! A resource manager before a TPM in software, as the kernel's is: it lets its user have three objects, and answers a
//! command that would load a fourth one with an error of the device file.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::between::{number, stand_before};

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
        let commands = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&commands);
        stand_before(directory, move |objects: &mut BTreeSet<u32>, command, answer| {
            let code = number(command, 6);
            seen.lock().unwrap().push(code);
            if number(&answer, 6) == 0 {
                if LOADING.contains(&code) {
                    objects.insert(number(&answer, 10));
                }
                if code == FLUSH_CONTEXT {
                    objects.remove(&number(command, 10));
                }
            }
            // This TPM has no room for a fourth object itself; one that has more is asked for it, and the manager refuses.
            let full = LOADING.contains(&code) && number(&answer, 6) == OBJECT_MEMORY;
            if full || objects.len() > OBJECTS_MAX { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(answer) }
        });
        Manager { commands }
    }

    /// How often this command came.
    pub(crate) fn count(&self, command: u32) -> usize {
        self.commands.lock().unwrap().iter().filter(|seen| **seen == command).count()
    }
}
