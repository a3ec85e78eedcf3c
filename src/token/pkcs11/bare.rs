//! The bare signing loop: what the module does when nothing is around it. The measure that `keyward bench` holds the
//! service against.

use std::thread;
use std::time::{Duration, Instant};

use cryptoki::mechanism::Mechanism;

use super::fault::{Act, failure};
use super::session::Held;
use super::{Pkcs11Token, private_object};
use crate::key::{Hash, PublicKey};
use crate::token::{Class, Failure, KeyRef, Outcome};

impl Pkcs11Token {
    /// Signatures per second of this many threads, each with a session of its own and one C_SignInit and one C_Sign a
    /// signature, over this time. RSA keys only.
    ///
    /// # Errors
    /// The device's answer.
    pub fn bare_signatures_per_second(&self, key: &KeyRef, threads: usize, duration: Duration) -> Result<f64, Failure> {
        let PublicKey::Rsa(rsa) = &key.public else { return Err(broke_off("the loop signs with RSA keys")) };
        let length = rsa.modulus_be().len();
        let data = [Hash::Sha256.digest_info(), &[0x5a; 32]].concat();
        let start = Instant::now();
        let signed = thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let session = Held::read_only(&self.sessions.module, self.sessions.slot())?;
                        let handle = private_object(&session, key.id)?;
                        let mut signature = vec![0u8; length];
                        let mut count = 0u32;
                        while start.elapsed() < duration {
                            session.sign_init(&Mechanism::RsaPkcs, handle).map_err(|e| failure(Act::Prepare, &e))?;
                            let one_shot = &self.sessions.module.one_shot;
                            one_shot.sign_into(&session, &data, &mut signature).map_err(|e| failure(Act::Sign, &e))?;
                            count += 1;
                        }
                        Ok(count)
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(broke_off("a thread broke off"))))
                .sum::<Result<u32, _>>()
        })?;
        Ok(f64::from(signed) / start.elapsed().as_secs_f64())
    }
}

fn broke_off(words: &str) -> Failure {
    Failure { class: Class::Unsupported, outcome: Outcome::Refused, function: "C_Sign", code: words.to_owned() }
}
