//! Every failure of the product: whose fault it is, a closed reason, words for the caller, and the next step.

use std::fmt;
use std::time::Duration;

/// Whose fault a failure is. Decides the exit code and the family of gRPC status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The one who asked: a bad document, a missing permission, a wrong name.
    Caller,
    /// Whoever set this instance up: configuration, files, addresses.
    Config,
    /// The token: a device, its module or its PIN.
    Token,
    /// The store: database or disk.
    Store,
    /// Another process we speak to.
    Peer,
    /// Ourselves.
    Bug,
}

macro_rules! reasons {
    ($($variant:ident $code:literal $fault:ident $doc:literal)*) => {
        /// The closed list of reasons. Names are part of the API (`ErrorInfo.reason`) and never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $(#[doc = $doc] $variant,)* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// The name on the wire and in records.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code,)* }
            }

            /// Whose fault it is.
            #[must_use]
            pub const fn fault(self) -> Fault {
                match self { $(Reason::$variant => Fault::$fault,)* }
            }

            /// One sentence of meaning, as documented.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Reason::$variant => $doc,)* }
            }
        }
    };
}

reasons! {
    InvalidArgument "INVALID_ARGUMENT" Caller "A field of the request is missing or malformed."
    LimitExceeded "LIMIT_EXCEEDED" Caller "A named bound on size, depth or count is exceeded."
    DocumentMalformed "DOCUMENT_MALFORMED" Caller "The text is not well-formed XML, or is cut off, or is not in a known encoding."
    DocumentForbidden "DOCUMENT_FORBIDDEN_MARKUP" Caller "The document has a comment, CDATA, processing instruction, DTD, foreign entity or a second BODY."
    DocumentKind "DOCUMENT_KIND" Caller "The document is of another kind than this operation takes."
    DocumentIncomplete "DOCUMENT_INCOMPLETE" Caller "A mandatory element or attribute is missing, doubled or has an impossible value."
    DocumentDates "DOCUMENT_DATES" Caller "A date in the document is impossible or outside what may be issued now."
    IssuerForeign "ISSUER_FOREIGN" Caller "The document names an issuer that is not the one it must have."
    IssuerKeyForeign "ISSUER_KEY_FOREIGN" Caller "The document names the right issuer with another public key."
    SignatureInvalid "SIGNATURE_INVALID" Caller "A signature or digest in a received document does not hold."
    ChainInvalid "CHAIN_INVALID" Caller "Certificates do not link to each other or to a pinned root."
    Revoked "REVOKED" Caller "A revocation list names the document, its key or its principal."
    UnsealFailed "UNSEAL_FAILED" Caller "A sealed key could not be opened; every cause looks the same."
    Unauthenticated "UNAUTHENTICATED" Caller "No client certificate that belongs to an active principal."
    PermissionDenied "PERMISSION_DENIED" Caller "The caller's roles do not allow this act on this object."
    NotFound "NOT_FOUND" Caller "No object of that name."
    AlreadyExists "ALREADY_EXISTS" Caller "An object of that name exists."
    ClusterNotEnrolled "CLUSTER_NOT_ENROLLED" Caller "The cluster has no server licensor certificate yet."
    KeyState "KEY_STATE" Caller "The key's state does not allow this act."
    KeyMissing "KEY_MISSING" Token "The token does not show the key; its record is kept."
    ConfigInvalid "CONFIG_INVALID" Config "The configuration or a device profile has a fault."
    DataDirectory "DATA_DIRECTORY" Config "The data directory cannot be used as it is."
    DataDirectoryInUse "DATA_DIRECTORY_IN_USE" Config "Another process holds the data directory."
    AddressInUse "ADDRESS_IN_USE" Config "The listening address is taken."
    ModuleMissing "MODULE_MISSING" Config "The PKCS#11 module cannot be loaded."
    TokenMissing "TOKEN_MISSING" Config "No token has the configured serial and label."
    TokenAmbiguous "TOKEN_AMBIGUOUS" Config "More than one token has the configured label or serial."
    PinSource "PIN_SOURCE" Config "The PIN source cannot be read or is not private."
    PinRefused "PIN_REFUSED" Token "The token refused the PIN; it will not be tried again."
    PinLatched "PIN_LATCHED" Token "An earlier refused PIN is latched until a person clears it."
    TokenWaiting "TOKEN_WAITING" Token "The token waits until a person logs it in."
    TokenUnavailable "TOKEN_UNAVAILABLE" Token "The token cannot be reached now."
    TokenRefused "TOKEN_REFUSED" Token "The token answered that it will not do this."
    TokenUnknown "TOKEN_OUTCOME_UNKNOWN" Token "It is not known whether the token did it."
    TokenBusy "TOKEN_BUSY" Token "The token is at something else: its queue is full, the deadline would pass in it, or a login is under way."
    TokenMismatch "TOKEN_MISMATCH" Token "The token's key or signature is not the recorded one; the token is quarantined."
    TokenUnsupported "TOKEN_UNSUPPORTED" Token "The token or its profile cannot do this."
    StoreUnavailable "STORE_UNAVAILABLE" Store "The store cannot be read or written; nothing was released."
    StoreConflict "STORE_CONFLICT" Store "Another writer changed the object first."
    StoreClosed "STORE_CLOSED" Store "This instance is stopping; nothing more is recorded."
    SchemaNewer "SCHEMA_NEWER" Store "The store was written by a newer version."
    StoreRewound "STORE_REWOUND" Store "The store is older than the anchor outside of it; records are lost."
    StoreForked "STORE_FORKED" Store "The store has other records than those that were signed."
    LogMissing "LOG_MISSING" Store "The store lacks a log that belongs to it."
    AnchorInvalid "ANCHOR_INVALID" Config "The anchor is missing, cannot be read or written, or is not signed by the log's key."
    CheckpointBroken "CHECKPOINT_BROKEN" Store "The store's last checkpoint is damaged, or not signed by the log's key."
    CheckpointOverdue "CHECKPOINT_OVERDUE" Store "Too much of the log stands unsigned; nothing is signed until a checkpoint is made."
    RecordBroken "RECORD_BROKEN" Store "A stored record does not match the log."
    ObjectAltered "OBJECT_ALTERED" Store "A stored object is not what the log recorded of it last."
    ClockBehind "CLOCK_BEHIND" Config "The clock is more than the allowed time before the last record."
    PeerUnreachable "PEER_UNREACHABLE" Peer "The other side does not answer."
    PeerRefused "PEER_REFUSED" Peer "The other side answered with an error."
    Deadline "DEADLINE" Peer "The deadline passed."
    Internal "INTERNAL" Bug "A fault of this program."
}

/// What a device answered, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Answer {
    /// The function that it was asked for, such as `C_Login`.
    pub function: &'static str,
    /// Its return value's name, such as `CKR_DEVICE_ERROR`.
    pub value: String,
}

/// A failure. `Display` is the public message; the private detail goes to logs only.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    reason: Reason,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    retry_after: Option<Duration>,
    answer: Option<Answer>,
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure with words for whoever meets it. `message` must hold no secret.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        Error(Box::new(Inner { reason, message, detail: None, hint: None, retry_after: None, answer: None }))
    }

    /// Adds what to do next, as an imperative sentence.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds detail for the log of this instance. It is never sent to a caller.
    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.0.detail = Some(detail.to_string());
        self
    }

    /// Adds when it is worth asking again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Adds what the device answered, if it did.
    #[must_use]
    pub fn answered(mut self, answer: Option<Answer>) -> Self {
        self.0.answer = answer;
        self
    }

    /// Puts words in front of the message, to say what was being done.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// The closed reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.0.reason.fault()
    }

    /// The public message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do next, if there is something to say.
    #[must_use]
    pub fn next_step(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// When it is worth asking again, if that is known.
    #[must_use]
    pub fn worth_again_in(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// What the device answered that brought this about, if one did.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        self.0.answer.as_ref()
    }

    /// Detail for logs.
    #[must_use]
    pub fn private_detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// The exit code of a command that ends with this failure (the values of `sysexits.h`, one per fault).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.fault() {
            Fault::Caller if self.reason() == Reason::PermissionDenied || self.reason() == Reason::Unauthenticated => {
                77
            }
            Fault::Caller => 65,
            Fault::Config => 78,
            Fault::Token => 69,
            Fault::Store => 74,
            Fault::Peer => 76,
            Fault::Bug => 70,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.reason.code(), self.0.message)?;
        if let Some(detail) = &self.0.detail {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
