//! The bare signing loop of a PKCS#11 module.

use std::thread;
use std::time::{Duration, Instant};

use cryptoki::mechanism::Mechanism;

use super::fault::{Act, failure};
use super::session::Held;
use super::{Pkcs11Token, private_object};
use crate::key::{Hash, PublicKey};
use crate::token::bare::{Rate, times};
use crate::token::{Class, Failure, KeyRef, refusal};

impl Pkcs11Token {
    /// Signs for so long with this many threads, each with a session of its own and one C_SignInit and one C_Sign a
    /// signature. RSA keys only.
    ///
    /// # Errors
    /// The device's answer.
    pub fn bare(&self, key: &KeyRef, threads: usize, duration: Duration) -> Result<Rate, Failure> {
        let PublicKey::Rsa(rsa) = &key.public else { return Err(broke_off("the loop signs with RSA keys")) };
        let data = [Hash::Sha256.digest_info(), &[0x5a; 32]].concat();
        let sessions = (0..threads).map(|_| {
            let session = Held::read_only(&self.sessions.module, self.sessions.slot)?;
            let handle = private_object(&session, key.id)?;
            Ok((session, handle))
        });
        let sessions: Vec<_> = sessions.collect::<Result<_, Failure>>()?;
        let (start, one_shot) = (Instant::now(), &self.sessions.module.one_shot);
        let signed = thread::scope(|scope| {
            let running = sessions.into_iter().map(|(session, handle)| {
                let (data, mut signature) = (&data, vec![0u8; rsa.modulus_be().len()]);
                scope.spawn(move || {
                    times(start, duration, || {
                        session.sign_init(&Mechanism::RsaPkcs, handle).map_err(|e| failure(Act::Prepare, &e))?;
                        one_shot.sign_into(&session, data, &mut signature).map_err(|e| failure(Act::Sign, &e))?;
                        Ok(())
                    })
                })
            });
            let running: Vec<_> = running.collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(broke_off("a thread broke off"))))
                .collect::<Result<Vec<_>, _>>()
        })?;
        Ok(Rate::of(signed.concat(), start))
    }
}

fn broke_off(words: &str) -> Failure {
    refusal(Class::Unsupported, "C_Sign", words)
}
