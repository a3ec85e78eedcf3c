//! What a TPM response code means: class, outcome and words.

use std::fs::OpenOptions;

use tss_esapi::Error as Tss;
use tss_esapi::constants::response_code::{Tss2ResponseCode, Tss2ResponseCodeKind as Kind};

use crate::token::{Class, Failure, Outcome};

/// TSS2_ESYS_RC_RSP_AUTH_FAILED: the session's HMAC over an answer is wrong.
const NOT_AUTHENTIC: u32 = 0x0007_001b;

/// The failure that an error of a TPM command stands for. `function` is the command, such as `TPM2_Sign`.
pub(super) fn failure(function: &'static str, error: &Tss) -> Failure {
    let Tss::Tss2Error(code) = error else {
        return Failure {
            class: Class::Module,
            outcome: Outcome::Unknown,
            function,
            code: format!("the software stack refused: {error}"),
        };
    };
    // Whether the command ran is not known then.
    let lost = |code| Failure { class: Class::Session, outcome: Outcome::Unknown, function, code };
    let number = number(*code);
    // Another layer's codes have the numbers of other codes of the TPM, or none.
    if !is_of_the_tpm(number) {
        return lost(match number {
            NOT_AUTHENTIC => "what is not authentic: it was changed on its way from the TPM".to_owned(),
            _ => format!("the connection to the TPM broke ({code:?})"),
        });
    }
    let Some(kind) = code.kind() else {
        return lost(format!("TPM_RC {number:#x}: no code that is known here"));
    };
    let class = classify(function, kind);
    let advice =
        advice(kind).filter(|_| class != Class::Undecided).map(|advice| format!("; {advice}")).unwrap_or_default();
    Failure { class, outcome: Outcome::Refused, function, code: format!("TPM_RC {kind:?}: {code}{advice}") }
}

/// The number of a code, which the library shows in the code's words only.
fn number(code: Tss2ResponseCode) -> u32 {
    let words = match code {
        Tss2ResponseCode::Success => return 0,
        Tss2ResponseCode::FormatZero(code) => code.to_string(),
        Tss2ResponseCode::FormatOne(code) => code.to_string(),
    };
    let number = words.rsplit_once("0x").and_then(|(_, number)| u32::from_str_radix(number, 16).ok());
    number.unwrap_or(u32::MAX)
}

/// Whether the TPM itself gave a code, rather than the software stack or the connection to it: its bits 16 to 23 name the
/// layer (TCG TSS 2.0 Overview and Common Structures, 2.3), the TPM's own or the resource manager's for the TPM's codes.
const fn is_of_the_tpm(number: u32) -> bool {
    matches!(number >> 16 & 0xff, 0 | 11)
}

/// Why a TPM cannot be reached: what the system says of its device file, where it has one, else the software stack's word.
pub(super) fn unreachable(tcti: &str, error: &Tss) -> String {
    let device = tcti.strip_prefix("device:");
    let refused = device.and_then(|path| OpenOptions::new().read(true).write(true).open(path).err());
    refused.map_or_else(|| format!("{error:?}"), |refused| refused.to_string())
}

/// The one table. A TPM answers with a code only when it did not do the command.
fn classify(function: &str, kind: Kind) -> Class {
    match kind {
        Kind::AuthFail | Kind::BadAuth | Kind::AuthUnavailable | Kind::Lockout => Class::Pin,
        Kind::Handle
        | Kind::ReferenceH0
        | Kind::ReferenceH1
        | Kind::ReferenceS0
        | Kind::ReferenceS1
        | Kind::Initialize
        | Kind::BadContext
        | Kind::Retry
        | Kind::Testing
        | Kind::Yielded
        | Kind::Canceled
        | Kind::NvRate
        | Kind::SessionMemory
        | Kind::SessionHandles
        | Kind::ObjectMemory
        | Kind::ObjectHandles
        | Kind::Memory => Class::Session,
        // A blob that this TPM's storage key does not open: from another TPM, or from before a clear.
        Kind::Integrity | Kind::Sensitive | Kind::Parent if function == "TPM2_Load" => Class::KeyMissing,
        // What does not decrypt: padding, or a number that is not below the modulus.
        Kind::Value | Kind::Size | Kind::Insufficient if function == "TPM2_RSA_Decrypt" => Class::Caller,
        Kind::Value
        | Kind::KeySize
        | Kind::Range
        | Kind::Scheme
        | Kind::Hash
        | Kind::Asymmetric
        | Kind::Symmetric
        | Kind::Curve
        | Kind::Attributes
        | Kind::Type
        | Kind::Key
        | Kind::Mgf
        | Kind::CommandCode => Class::Unsupported,
        // swtpm says `Failure` to bad padding and works on; a TPM that is really in failure mode shows at the probe.
        _ if function == "TPM2_RSA_Decrypt" => Class::Undecided,
        _ => Class::Token,
    }
}

/// What a person can do about it.
fn advice(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Lockout => Some("wait for the lockout to pass or reset it with the lockout authorization"),
        Kind::ObjectMemory | Kind::ObjectHandles | Kind::SessionMemory | Kind::SessionHandles => {
            Some("use the resource manager (/dev/tpmrm0), not the raw device")
        }
        Kind::Failure => Some("the TPM is in failure mode; power-cycle the machine"),
        Kind::Initialize | Kind::Reboot => Some("restart the machine, or the software TPM with startup-clear"),
        Kind::Hierarchy => Some("enable the storage hierarchy in the firmware settings"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(function: &'static str, code: u32) -> Failure {
        failure(function, &Tss::Tss2Error(Tss2ResponseCode::from(code)))
    }

    #[test]
    fn codes_that_need_a_person_say_what_is_to_be_done() {
        // Numbers of TPM 2.0 Part 2, 6.6; a parameter, handle or session number is added to codes of format one.
        for (function, code, class, words) in [
            ("TPM2_Sign", 0x921, Class::Pin, "lockout"),
            ("TPM2_Sign", 0x9a2, Class::Pin, "BadAuth"),
            ("TPM2_Sign", 0x98e, Class::Pin, "AuthFail"),
            ("TPM2_Sign", 0x18b, Class::Session, "Handle"),
            ("TPM2_Sign", 0x910, Class::Session, "ReferenceH0"),
            ("TPM2_Sign", 0x918, Class::Session, "ReferenceS0"),
            ("TPM2_Load", 0x902, Class::Session, "resource manager"),
            ("TPM2_Load", 0x906, Class::Session, "resource manager"),
            ("TPM2_StartAuthSession", 0x903, Class::Session, "resource manager"),
            ("TPM2_StartAuthSession", 0x905, Class::Session, "resource manager"),
            ("TPM2_Load", 0x1df, Class::KeyMissing, "Integrity"),
            ("TPM2_Create", 0x185, Class::Token, "firmware settings"),
            ("TPM2_Sign", 0x101, Class::Token, "power-cycle"),
            ("TPM2_Sign", 0x100, Class::Session, "startup-clear"),
            ("TPM2_Sign", 0x922, Class::Session, "Retry"),
            ("TPM2_Sign", 0x908, Class::Session, "Yielded"),
            ("TPM2_Sign", 0x90a, Class::Session, "Testing"),
            ("TPM2_Create", 0x2c4, Class::Unsupported, "Value"),
            ("TPM2_Certify", 0x143, Class::Unsupported, "CommandCode"),
            ("TPM2_RSA_Decrypt", 0x1c4, Class::Caller, "Value"),
            ("TPM2_RSA_Decrypt", 0x1d5, Class::Caller, "Size"),
            ("TPM2_RSA_Decrypt", 0x101, Class::Undecided, "Failure"),
            ("TPM2_RSA_Decrypt", 0x185, Class::Undecided, "Hierarchy"),
        ] {
            let failure = answer(function, code);
            assert_eq!((failure.class, failure.outcome), (class, Outcome::Refused), "{function} {code:#x}: {failure}");
            assert!(failure.code.contains(words), "{function} {code:#x}: {failure}");
        }
    }

    #[test]
    fn a_broken_connection_leaves_the_outcome_open_whatever_a_tpm_would_mean_by_the_number() {
        // GENERAL_FAILURE, IO_ERROR, BAD_VALUE and BAD_CONTEXT of the transport; GENERAL_FAILURE of ESYS and of the
        // resource manager itself.
        for code in [0x000a_0001, 0x000a_000a, 0x000a_000b, 0x000a_0005, 0x0007_0001, 0x000c_0001] {
            let failure = answer("TPM2_Sign", code);
            assert_eq!((failure.class, failure.outcome), (Class::Session, Outcome::Unknown), "{code:#x}: {failure}");
            assert!(!failure.code.contains("power-cycle") && failure.answer().is_none(), "{failure}");
        }
    }

    #[test]
    fn what_the_resource_manager_says_in_the_tpms_words_is_the_tpms_word() {
        let failure = answer("TPM2_Certify", 0x000b_0143);
        assert_eq!((failure.class, failure.outcome), (Class::Unsupported, Outcome::Refused), "{failure}");
    }
}
