//! What a host is asked, for a caller whose time is bounded.

use std::time::{Duration, Instant};

use super::wire::{self, Answer, Call};
use super::{HostToken, failure};
use crate::key::{Hash, KeyId, PublicKey};
use crate::secret::Secret;
use crate::token::{Allowance, Class, Description, Failure, Generate, Generated, KeyRef, Outcome, Padding, Token};

/// How long a call waits for a host that is being started if no caller says how long it may.
const NO_CALLER: Duration = Duration::from_secs(120);

/// A host as one caller uses it.
struct Asked<'a> {
    host: &'a HostToken,
    allowance: Allowance<'a>,
}

impl Asked<'_> {
    /// A call that changes nothing: once more if the host went down under it, where that is allowed.
    fn ask(&self, call: &Call) -> Result<Answer, Failure> {
        let (limit, Allowance { until, again, given }) = (self.host.call_max(), self.allowance);
        match self.host.call(call, limit, until, given) {
            Err(f) if again && f.class == Class::Module => {
                let wait = self.host.lock().back_off.remaining();
                if Instant::now() + wait >= until {
                    return Err(f);
                }
                given(false);
                std::thread::sleep(wait);
                self.host.call(call, limit, until, given).map_err(|again| again.after(f.outcome))
            }
            answer => answer,
        }
    }
}

impl Token for Asked<'_> {
    fn describe(&self) -> Result<Description, Failure> {
        from_json(&self.ask(&Call::describe())?.json)
    }

    fn generate(&self, request: &Generate) -> Result<Generated, Failure> {
        let limit = Duration::from_millis(self.host.profile.sessions.generate_ms_max);
        let answer = self.host.call(&Call::generate(request), limit, self.allowance.until, self.allowance.given)?;
        Ok(Generated { public: public(&answer)?, evidence: from_json(&answer.json)? })
    }

    fn public_key(&self, id: KeyId) -> Result<PublicKey, Failure> {
        public(&self.ask(&Call::public_key(id))?)
    }

    fn sign(&self, key: &KeyRef, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, Failure> {
        Ok(self.ask(&Call::sign(key, hash, digest))?.output)
    }

    fn decrypt(&self, key: &KeyRef, padding: Padding, ciphertext: &[u8]) -> Result<Secret, Failure> {
        Ok(Secret::new(self.ask(&Call::decrypt(key, padding, ciphertext))?.output))
    }
}

impl HostToken {
    fn asked<'a>(&'a self, allowance: Allowance<'a>) -> Asked<'a> {
        Asked { host: self, allowance }
    }

    fn alone(&self) -> Asked<'_> {
        self.asked(Allowance { until: Instant::now() + NO_CALLER, again: true, given: &|_| {} })
    }
}

impl Token for HostToken {
    fn allowing<'a>(&'a self, allowance: Allowance<'a>) -> Option<Box<dyn Token + 'a>> {
        Some(Box::new(self.asked(allowance)))
    }

    fn describe(&self) -> Result<Description, Failure> {
        self.alone().describe()
    }

    fn generate(&self, request: &Generate) -> Result<Generated, Failure> {
        self.alone().generate(request)
    }

    fn public_key(&self, id: KeyId) -> Result<PublicKey, Failure> {
        self.alone().public_key(id)
    }

    fn sign(&self, key: &KeyRef, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, Failure> {
        self.alone().sign(key, hash, digest)
    }

    fn decrypt(&self, key: &KeyRef, padding: Padding, ciphertext: &[u8]) -> Result<Secret, Failure> {
        self.alone().decrypt(key, padding, ciphertext)
    }
}

fn public(answer: &Answer) -> Result<PublicKey, Failure> {
    wire::public_of(&answer.public).ok_or_else(nonsense)
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|_| nonsense())
}

fn nonsense() -> Failure {
    failure(Class::Module, Outcome::Unknown, "an answer that makes no sense".to_owned())
}
