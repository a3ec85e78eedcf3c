//! What the service and a token host say to each other: protocol buffers, each in a packet of a socket pair.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use prost::Message;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use zeroize::{Zeroize, Zeroizing};

use crate::error::{self, Error, Reason};
use crate::key::{Hash, KeyAlgorithm, KeyId, PublicKey, RsaPublicKey};
use crate::token::{Class, Description, Evidence, Failure, Generate, KeyRef, Outcome, Padding};

/// Largest frame in bytes. The largest true one, a generation's evidence, is a few thousand.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// First byte of every packet: one without any could not be told from the end of the connection.
const FRAME: u8 = 0;

/// First words of the service: what to open. The PIN goes in a frame of its own when the host asks for it, so that no
/// message holds it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Hello {
    /// JSON of the binding.
    #[prost(string, tag = "1")]
    pub(super) binding: String,
    /// JSON of the profile.
    #[prost(string, tag = "2")]
    pub(super) profile: String,
    /// Session sockets that follow.
    #[prost(uint32, tag = "3")]
    pub(super) sessions: u32,
}

/// Answer to [`Hello`], and after the question for the PIN the answer to that: opened if `reason` is empty, otherwise the
/// error's parts.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Opened {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(string, tag = "3")]
    pub(super) hint: String,
    #[prost(string, tag = "4")]
    pub(super) detail: String,
    /// Not opened yet: the token is there, and its PIN is tried as soon as it comes.
    #[prost(bool, tag = "5")]
    pub(super) wants_pin: bool,
    /// What the device answered that brought the error about; empty if it did not.
    #[prost(string, tag = "6")]
    pub(super) function: String,
    #[prost(string, tag = "7")]
    pub(super) value: String,
}

/// One call of the port. Which fields count depends on the act.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Call {
    #[prost(enumeration = "Act", tag = "1")]
    pub(super) act: i32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) label: String,
    /// RSA modulus bits; 0 for P-256.
    #[prost(uint32, tag = "4")]
    pub(super) bits: u32,
    #[prost(bool, tag = "5")]
    pub(super) sign: bool,
    #[prost(bool, tag = "6")]
    pub(super) decrypt: bool,
    /// RSA modulus, or P-256 point of 65 bytes.
    #[prost(bytes = "vec", tag = "7")]
    pub(super) public: Vec<u8>,
    /// Bytes of the digest that names the hash: 20, 32; 0 for RSAES-PKCS1-v1_5.
    #[prost(uint32, tag = "8")]
    pub(super) hash: u32,
    /// Digest or ciphertext.
    #[prost(bytes = "vec", tag = "9")]
    pub(super) input: Vec<u8>,
}

/// The calls of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Act {
    None = 0,
    Describe = 1,
    Generate = 2,
    PublicKey = 3,
    Sign = 4,
    Decrypt = 5,
}

/// Answer to a call: a failure, or what the act gives. Its output may be a plaintext, so it shows nothing of itself.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct Answer {
    #[prost(message, optional, tag = "1")]
    pub(super) failure: Option<WireFailure>,
    /// RSA modulus, or P-256 point of 65 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) public: Vec<u8>,
    /// Signature or plaintext.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) output: Vec<u8>,
    /// JSON of a description or of evidence.
    #[prost(string, tag = "4")]
    pub(super) json: String,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer(…)")
    }
}

/// A [`Failure`] in transit.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WireFailure {
    /// Place in [`CLASSES`].
    #[prost(uint32, tag = "1")]
    class: u32,
    #[prost(bool, tag = "2")]
    unknown: bool,
    #[prost(string, tag = "3")]
    function: String,
    #[prost(string, tag = "4")]
    code: String,
}

const CLASSES: [Class; 9] = [
    Class::Session,
    Class::Token,
    Class::Module,
    Class::Pin,
    Class::Caller,
    Class::KeyMissing,
    Class::Mismatch,
    Class::Unsupported,
    Class::Undecided,
];

impl From<&Failure> for WireFailure {
    fn from(failure: &Failure) -> Self {
        let class = CLASSES.iter().zip(0u32..).find(|(class, _)| **class == failure.class);
        WireFailure {
            class: class.map_or(u32::MAX, |(_, place)| place),
            unknown: failure.outcome == Outcome::Unknown,
            function: failure.function.to_owned(),
            code: failure.code.clone(),
        }
    }
}

impl From<WireFailure> for Failure {
    fn from(wire: WireFailure) -> Self {
        let class = CLASSES.iter().zip(0u32..).find(|(_, place)| *place == wire.class);
        Failure {
            class: class.map_or(Class::Module, |(class, _)| *class),
            outcome: if wire.unknown { Outcome::Unknown } else { Outcome::Refused },
            function: known_function(&wire.function),
            code: wire.code,
        }
    }
}

/// The function names that failures carry.
fn known_function(name: &str) -> &'static str {
    const NAMES: &[&str] = &[
        "C_CloseSession",
        "C_Decrypt",
        "C_DecryptInit",
        "C_DestroyObject",
        "C_FindObjects",
        "C_FindObjectsInit",
        "C_GenerateKeyPair",
        "C_GetAttributeValue",
        "C_GetInfo",
        "C_GetMechanismList",
        "C_GetSessionInfo",
        "C_GetSlotInfo",
        "C_GetSlotList",
        "C_GetTokenInfo",
        "C_InitPIN",
        "C_InitToken",
        "C_Initialize",
        "C_Login",
        "C_Logout",
        "C_OpenSession",
        "C_Sign",
        "C_SignInit",
        "TPM2_Certify",
        "TPM2_Create",
        "TPM2_CreatePrimary",
        "TPM2_GetCapability",
        "TPM2_Load",
        "TPM2_RSA_Decrypt",
        "TPM2_Sign",
        "TPM2_StartAuthSession",
        "TPM2_Startup",
        "TPM",
        "module",
        "profile",
    ];
    NAMES.iter().find(|known| **known == name).copied().unwrap_or("another function")
}

impl Answer {
    /// Whether this can be the answer to that call: of the form that the call gives, or a failure.
    pub(super) fn fits(&self, call: &Call) -> bool {
        let public = || public_of(&self.public).is_some();
        self.failure.is_some()
            || match call.act() {
                Act::None => false,
                Act::Describe => serde_json::from_str::<Description>(&self.json).is_ok(),
                Act::Generate => public() && serde_json::from_str::<Evidence>(&self.json).is_ok(),
                Act::PublicKey => public(),
                // A signature is as long as the modulus; of P-256, whose point has 65 bytes, it has 64.
                Act::Sign => self.output.len() == if call.public.len() == 65 { 64 } else { call.public.len() },
                Act::Decrypt => self.output.len() <= call.public.len(),
            }
    }
}

impl Opened {
    pub(super) fn refusal(error: &Error) -> Self {
        Opened {
            reason: error.reason().code().to_owned(),
            message: error.message().to_owned(),
            hint: error.next_step().unwrap_or_default().to_owned(),
            detail: error.private_detail().unwrap_or_default().to_owned(),
            wants_pin: false,
            function: error.answer().map(|answer| answer.function.to_owned()).unwrap_or_default(),
            value: error.answer().map(|answer| answer.value.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn into_result(self) -> Result<(), Error> {
        if self.reason.is_empty() {
            return Ok(());
        }
        let reason = Reason::ALL.iter().find(|r| r.code() == self.reason).copied().unwrap_or(Reason::Internal);
        let mut error = Error::new(reason, self.message);
        if !self.hint.is_empty() {
            error = error.hint(self.hint);
        }
        if !self.detail.is_empty() {
            error = error.detail(self.detail);
        }
        if !self.value.is_empty() {
            error = error.answered(Some(error::Answer { function: known_function(&self.function), value: self.value }));
        }
        Err(error)
    }
}

impl Call {
    pub(super) fn describe() -> Self {
        Call { act: Act::Describe.into(), ..Call::default() }
    }

    pub(super) fn generate(request: &Generate) -> Self {
        Call {
            act: Act::Generate.into(),
            id: request.id.0.to_vec(),
            label: request.label.clone(),
            bits: match request.algorithm {
                KeyAlgorithm::Rsa(bits) => bits,
                KeyAlgorithm::P256 => 0,
            },
            sign: request.sign,
            decrypt: request.decrypt,
            ..Call::default()
        }
    }

    pub(super) fn public_key(id: KeyId) -> Self {
        Call { act: Act::PublicKey.into(), id: id.0.to_vec(), ..Call::default() }
    }

    pub(super) fn sign(key: &KeyRef, hash: Hash, digest: &[u8]) -> Self {
        Call::with_key(Act::Sign, key, hash_number(hash), digest)
    }

    pub(super) fn decrypt(key: &KeyRef, padding: Padding, ciphertext: &[u8]) -> Self {
        let hash = match padding {
            Padding::Pkcs1 => 0,
            Padding::Oaep(hash) => hash_number(hash),
        };
        Call::with_key(Act::Decrypt, key, hash, ciphertext)
    }

    fn with_key(act: Act, key: &KeyRef, hash: u32, input: &[u8]) -> Self {
        Call {
            act: act.into(),
            id: key.id.0.to_vec(),
            public: public_bytes(&key.public),
            hash,
            input: input.to_vec(),
            ..Call::default()
        }
    }

    pub(super) fn key_id(&self) -> Option<KeyId> {
        self.id.as_slice().try_into().ok().map(KeyId)
    }

    pub(super) fn key(&self) -> Option<KeyRef> {
        Some(KeyRef { id: self.key_id()?, public: public_of(&self.public)? })
    }

    pub(super) fn hash(&self) -> Option<Hash> {
        match self.hash {
            20 => Some(Hash::Sha1),
            32 => Some(Hash::Sha256),
            _ => None,
        }
    }

    pub(super) fn padding(&self) -> Option<Padding> {
        if self.hash == 0 { Some(Padding::Pkcs1) } else { self.hash().map(Padding::Oaep) }
    }

    pub(super) fn request(&self) -> Option<Generate> {
        Some(Generate {
            id: self.key_id()?,
            label: self.label.clone(),
            algorithm: if self.bits == 0 { KeyAlgorithm::P256 } else { KeyAlgorithm::Rsa(self.bits) },
            sign: self.sign,
            decrypt: self.decrypt,
        })
    }
}

const fn hash_number(hash: Hash) -> u32 {
    match hash {
        Hash::Sha1 => 20,
        Hash::Sha256 => 32,
    }
}

/// A public key in transit.
pub(super) fn public_bytes(public: &PublicKey) -> Vec<u8> {
    match public {
        PublicKey::Rsa(rsa) => rsa.modulus_be().to_vec(),
        PublicKey::P256 { point } => point.clone(),
    }
}

/// A public key from transit: the lengths of a point and of a modulus never meet.
pub(super) fn public_of(bytes: &[u8]) -> Option<PublicKey> {
    if bytes.len() == 65 {
        return Some(PublicKey::P256 { point: bytes.to_vec() });
    }
    RsaPublicKey::new(bytes, 65537).ok().map(PublicKey::Rsa)
}

/// One end of a connection between a service and a token host: a socket that keeps the bounds of packets, so that each
/// frame is one write, one read and one wake-up. On a stream, a read wakes the other side too: it could write again.
pub(super) struct Channel {
    socket: OwnedFd,
    /// Takes what comes; wiped once it was read, as it may be a PIN or a plaintext.
    buffer: Zeroizing<Vec<u8>>,
    /// How long the system lets a read wait; for ever if none.
    limit: Option<Duration>,
}

impl Channel {
    pub(super) fn pair() -> io::Result<(Channel, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Channel::from(ours), theirs))
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Bounds the reads that follow.
    pub(super) fn set_read_timeout(&mut self, limit: Duration) -> io::Result<()> {
        if self.limit != Some(limit) {
            sockopt::set_socket_timeout(&self.socket, Timeout::Recv, Some(limit))?;
            self.limit = Some(limit);
        }
        Ok(())
    }

    /// Bounds the writes that follow.
    pub(super) fn set_write_timeout(&self, limit: Duration) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.socket, Timeout::Send, Some(limit))?)
    }

    /// Writes one frame.
    pub(super) fn write_frame(&self, bytes: &[u8]) -> io::Result<()> {
        let mut packet = Zeroizing::new(Vec::with_capacity(bytes.len() + 1));
        packet.push(FRAME);
        packet.extend_from_slice(bytes);
        self.write(&packet)
    }

    /// Writes one message.
    pub(super) fn write_message(&self, message: &impl Message) -> io::Result<()> {
        let mut packet = Zeroizing::new(Vec::with_capacity(message.encoded_len() + 1));
        packet.push(FRAME);
        message.encode(&mut *packet).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.write(&packet)
    }

    fn write(&self, packet: &[u8]) -> io::Result<()> {
        // All of a packet is sent or nothing.
        rustix::io::retry_on_intr(|| net::send(&self.socket, packet, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Reads one frame.
    pub(super) fn read_frame(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        self.read(|frame| Ok(Zeroizing::new(frame.to_vec())))
    }

    /// Reads one message.
    pub(super) fn read_message<M: Message + Default>(&mut self) -> io::Result<M> {
        self.read(|frame| M::decode(frame).map_err(|_| io::ErrorKind::InvalidData.into()))
    }

    fn read<T>(&mut self, of: impl FnOnce(&[u8]) -> io::Result<T>) -> io::Result<T> {
        self.buffer.resize(FRAME_BYTES_MAX + 1, 0);
        let received = rustix::io::retry_on_intr(|| net::recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC));
        let (kept, length) = received?;
        let found = match self.buffer.get(..length) {
            Some([]) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some([FRAME, frame @ ..]) => of(frame),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
        self.buffer[..kept].zeroize();
        found
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Channel { socket, buffer: Zeroizing::default(), limit: None }
    }
}
