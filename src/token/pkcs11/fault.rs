//! What a PKCS#11 return value means: one table from value and function to class and outcome.

use cryptoki::context::Function;
use cryptoki::error::{Error as Cryptoki, RvError};

use crate::token::{Class, Failure, Outcome};

/// What was being asked of the token when it failed. The same return value means different things in different acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Opening, enumerating, describing, finding: nothing is made.
    Look,
    /// Logging in.
    Login,
    /// Preparing an operation with a mechanism and a key.
    Prepare,
    /// Signing proper.
    Sign,
    /// Decrypting proper.
    Decrypt,
    /// Making a key pair, a token or a PIN.
    Make,
}

/// One row: these return values, in these acts (none listed: in every act), are of this class.
struct Row {
    acts: &'static [Act],
    values: &'static [&'static str],
    class: Class,
}

/// Acts in which the token works on nothing that a stranger has sent: its words mean what they say.
const OF_OUR_OWN: &[Act] = &[Act::Look, Act::Login, Act::Prepare, Act::Sign, Act::Make];

/// The table. The first row that fits decides; what no row names is a failure of the token, and at a decryption undecided.
///
/// A ciphertext that does not decrypt is the caller's doing whatever the module calls it: SoftHSM says
/// `CKR_GENERAL_ERROR`, Kryoptic `CKR_DEVICE_ERROR`, others what their maker has made up. So only values that no
/// ciphertext can bring about are the device's; after every other one a probe finds out whether the token is well.
const TABLE: &[Row] = &[
    Row {
        acts: &[Act::Decrypt],
        values: &[
            "CKR_ENCRYPTED_DATA_INVALID",
            "CKR_ENCRYPTED_DATA_LEN_RANGE",
            "CKR_AEAD_DECRYPT_FAILED",
            "CKR_DATA_INVALID",
            "CKR_DATA_LEN_RANGE",
        ],
        class: Class::Caller,
    },
    Row {
        acts: &[Act::Decrypt],
        values: &[
            "CKR_DEVICE_REMOVED",
            "CKR_TOKEN_NOT_PRESENT",
            "CKR_TOKEN_NOT_RECOGNIZED",
            "CKR_TOKEN_NOT_INITIALIZED",
            "CKR_SLOT_ID_INVALID",
        ],
        class: Class::Token,
    },
    Row { acts: &[Act::Sign], values: &["CKR_DATA_INVALID", "CKR_DATA_LEN_RANGE"], class: Class::Caller },
    Row { acts: &[Act::Sign], values: &["CKR_BUFFER_TOO_SMALL"], class: Class::Mismatch },
    Row {
        acts: &[Act::Prepare, Act::Make],
        values: &[
            "CKR_ARGUMENTS_BAD",
            "CKR_ATTRIBUTE_READ_ONLY",
            "CKR_ATTRIBUTE_TYPE_INVALID",
            "CKR_ATTRIBUTE_VALUE_INVALID",
            "CKR_TEMPLATE_INCOMPLETE",
            "CKR_TEMPLATE_INCONSISTENT",
            "CKR_DOMAIN_PARAMS_INVALID",
            "CKR_TOKEN_WRITE_PROTECTED",
            "CKR_SESSION_READ_ONLY",
            "CKR_ACTION_PROHIBITED",
        ],
        class: Class::Unsupported,
    },
    Row {
        acts: OF_OUR_OWN,
        values: &[
            "CKR_MECHANISM_INVALID",
            "CKR_MECHANISM_PARAM_INVALID",
            "CKR_FUNCTION_NOT_SUPPORTED",
            "CKR_CURVE_NOT_SUPPORTED",
            "CKR_KEY_SIZE_RANGE",
            "CKR_KEY_TYPE_INCONSISTENT",
            "CKR_KEY_FUNCTION_NOT_PERMITTED",
            "CKR_FUNCTION_REJECTED",
        ],
        class: Class::Unsupported,
    },
    Row {
        acts: &[],
        values: &[
            "CKR_SESSION_HANDLE_INVALID",
            "CKR_SESSION_CLOSED",
            "CKR_USER_NOT_LOGGED_IN",
            "CKR_KEY_HANDLE_INVALID",
            "CKR_OBJECT_HANDLE_INVALID",
            "CKR_OPERATION_ACTIVE",
            "CKR_OPERATION_NOT_INITIALIZED",
        ],
        class: Class::Session,
    },
    Row {
        acts: OF_OUR_OWN,
        values: &[
            "CKR_PIN_INCORRECT",
            "CKR_PIN_INVALID",
            "CKR_PIN_LEN_RANGE",
            "CKR_PIN_EXPIRED",
            "CKR_PIN_LOCKED",
            "CKR_PIN_TOO_WEAK",
            "CKR_USER_PIN_NOT_INITIALIZED",
            "CKR_USER_TYPE_INVALID",
            "CKR_NEW_PIN_MODE",
            "CKR_NEXT_OTP",
        ],
        class: Class::Pin,
    },
    Row {
        acts: &[],
        values: &[
            "CKR_CRYPTOKI_NOT_INITIALIZED",
            "CKR_CANT_LOCK",
            "CKR_MUTEX_BAD",
            "CKR_MUTEX_NOT_LOCKED",
            "CKR_NEED_TO_CREATE_THREADS",
            "CKR_LIBRARY_LOAD_FAILED",
            "CKR_FIPS_SELF_TEST_FAILED",
        ],
        class: Class::Module,
    },
];

/// Values that say, by PKCS#11 2.40 section 11.1, that the function was not carried out, although their class
/// leaves it open: the condition was there before the call began.
const BEFORE_THE_CALL: &[&str] = &[
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_USER_NOT_LOGGED_IN",
    "CKR_KEY_HANDLE_INVALID",
    "CKR_OBJECT_HANDLE_INVALID",
    "CKR_OPERATION_ACTIVE",
    "CKR_OPERATION_NOT_INITIALIZED",
    "CKR_TOKEN_NOT_PRESENT",
    "CKR_TOKEN_NOT_RECOGNIZED",
    "CKR_SLOT_ID_INVALID",
    "CKR_SESSION_COUNT",
    "CKR_CRYPTOKI_NOT_INITIALIZED",
];

/// Values of C_Login that say that the token never came to look at the PIN: the condition was there before. After every
/// other one it may have counted a wrong PIN, whatever it calls that, so the same PIN is not tried again.
const BEFORE_THE_PIN: &[&str] = &[
    "CKR_TOKEN_NOT_PRESENT",
    "CKR_SLOT_ID_INVALID",
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_CRYPTOKI_NOT_INITIALIZED",
    "CKR_FUNCTION_NOT_SUPPORTED",
    "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
    "CKR_SESSION_READ_ONLY_EXISTS",
    "CKR_ARGUMENTS_BAD",
];

/// Values of C_GetAttributeValue that say something of the attribute and nothing of the token.
const ABOUT_AN_ATTRIBUTE: &[&str] = &[
    "CKR_ATTRIBUTE_SENSITIVE",
    "CKR_ATTRIBUTE_TYPE_INVALID",
    "CKR_ATTRIBUTE_VALUE_INVALID",
    "CKR_INFORMATION_SENSITIVE",
    "CKR_FUNCTION_NOT_SUPPORTED",
    "CKR_ARGUMENTS_BAD",
];

/// Whether a return value of C_GetAttributeValue says that the object does not show this attribute.
#[must_use]
pub fn is_about_an_attribute(value: &str) -> bool {
    ABOUT_AN_ATTRIBUTE.contains(&value)
}

/// Values of C_GetTokenInfo that say that the slot holds no token.
const NO_TOKEN: &[&str] =
    &["CKR_TOKEN_NOT_PRESENT", "CKR_TOKEN_NOT_RECOGNIZED", "CKR_SLOT_ID_INVALID", "CKR_DEVICE_REMOVED"];

/// Whether a return value of C_GetTokenInfo says that the slot holds no token.
#[must_use]
pub fn says_no_token(value: &str) -> bool {
    NO_TOKEN.contains(&value)
}

/// Return values that are newer than the binding's names: PKCS#11 3.0 to 3.2.
const NEWER: &[(u64, &str)] = &[
    (0x042, "CKR_AEAD_DECRYPT_FAILED"),
    (0x201, "CKR_TOKEN_RESOURCE_EXCEEDED"),
    (0x202, "CKR_OPERATION_CANCEL_FAILED"),
    (0x203, "CKR_KEY_EXHAUSTED"),
    (0x204, "CKR_PENDING"),
    (0x205, "CKR_SESSION_ASYNC_NOT_SUPPORTED"),
    (0x206, "CKR_SEED_RANDOM_REQUIRED"),
    (0x207, "CKR_OPERATION_NOT_VALIDATED"),
    (0x208, "CKR_TOKEN_NOT_INITIALIZED"),
    (0x209, "CKR_PARAMETER_SET_NOT_SUPPORTED"),
];

/// Class and outcome of a return value (its PKCS#11 name) in an act.
#[must_use]
pub fn classify(act: Act, value: &str) -> (Class, Outcome) {
    let row = TABLE.iter().find(|row| (row.acts.is_empty() || row.acts.contains(&act)) && row.values.contains(&value));
    let unnamed = if act == Act::Decrypt { Class::Undecided } else { Class::Token };
    let class = row.map_or(unnamed, |row| row.class);
    let is_open = match act {
        Act::Look | Act::Prepare => false,
        Act::Login => class != Class::Pin && !BEFORE_THE_PIN.contains(&value),
        Act::Sign | Act::Decrypt | Act::Make => {
            matches!(class, Class::Session | Class::Token | Class::Module | Class::Mismatch)
                && !BEFORE_THE_CALL.contains(&value)
        }
    };
    (class, if is_open { Outcome::Unknown } else { Outcome::Refused })
}

/// The failure that a binding error stands for.
#[must_use]
pub fn failure(act: Act, error: &Cryptoki) -> Failure {
    match error {
        Cryptoki::Pkcs11(value, function) => {
            let code = value_name(*value);
            let (class, outcome) = classify(act, &code);
            Failure { class, outcome, function: function_name(*function), code }
        }
        Cryptoki::NullFunctionPointer | Cryptoki::NotSupported => Failure {
            class: Class::Unsupported,
            outcome: Outcome::Refused,
            function: "module",
            code: "the module does not have this function".to_owned(),
        },
        other => Failure {
            class: Class::Module,
            outcome: if matches!(act, Act::Look | Act::Prepare) { Outcome::Refused } else { Outcome::Unknown },
            function: "module",
            code: format!("an answer that makes no sense: {other}"),
        },
    }
}

/// The PKCS#11 name of a return value.
#[must_use]
pub fn value_name(value: RvError) -> String {
    match value {
        RvError::VendorDefined(n) => format!("CKR_VENDOR_DEFINED 0x{n:08x}"),
        RvError::UnknownErrorCode(n) => {
            let known = NEWER.iter().find(|(number, _)| *number == n);
            known.map_or_else(|| format!("0x{n:08x}"), |(_, name)| (*name).to_owned())
        }
        named => {
            let mut name = "CKR".to_owned();
            for c in format!("{named:?}").chars() {
                if c.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(c.to_ascii_uppercase());
            }
            name
        }
    }
}

/// The PKCS#11 name of a function that this room calls.
#[must_use]
pub fn function_name(function: Function) -> &'static str {
    match function {
        Function::Initialize => "C_Initialize",
        Function::GetInfo => "C_GetInfo",
        Function::GetSlotList => "C_GetSlotList",
        Function::GetSlotInfo => "C_GetSlotInfo",
        Function::GetTokenInfo => "C_GetTokenInfo",
        Function::GetMechanismList => "C_GetMechanismList",
        Function::InitToken => "C_InitToken",
        Function::InitPIN => "C_InitPIN",
        Function::OpenSession => "C_OpenSession",
        Function::CloseSession => "C_CloseSession",
        Function::GetSessionInfo => "C_GetSessionInfo",
        Function::Login => "C_Login",
        Function::Logout => "C_Logout",
        Function::GetAttributeValue => "C_GetAttributeValue",
        Function::FindObjectsInit => "C_FindObjectsInit",
        Function::FindObjects => "C_FindObjects",
        Function::GenerateKeyPair => "C_GenerateKeyPair",
        Function::SignInit => "C_SignInit",
        Function::Sign => "C_Sign",
        Function::DecryptInit => "C_DecryptInit",
        Function::Decrypt => "C_Decrypt",
        Function::DestroyObject => "C_DestroyObject",
        _ => "another function",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_value_means_what_its_act_makes_of_it() {
        use Act::{Decrypt, Login, Look, Make, Prepare, Sign};
        use Class::{Caller, Mismatch, Module, Pin, Session, Token, Undecided, Unsupported};
        use Outcome::{Refused, Unknown};
        for (act, value, class, outcome) in [
            (Decrypt, "CKR_GENERAL_ERROR", Undecided, Refused),
            (Decrypt, "CKR_DEVICE_ERROR", Undecided, Refused),
            (Decrypt, "CKR_PIN_LOCKED", Undecided, Refused),
            (Decrypt, "CKR_KEY_SIZE_RANGE", Undecided, Refused),
            (Decrypt, "CKR_VENDOR_DEFINED 0x80000001", Undecided, Refused),
            (Decrypt, "0x000002ff", Undecided, Refused),
            (Decrypt, "CKR_ENCRYPTED_DATA_INVALID", Caller, Refused),
            (Decrypt, "CKR_CRYPTOKI_NOT_INITIALIZED", Module, Refused),
            (Decrypt, "CKR_DEVICE_REMOVED", Token, Unknown),
            (Decrypt, "CKR_SESSION_HANDLE_INVALID", Session, Refused),
            (Sign, "CKR_GENERAL_ERROR", Token, Unknown),
            (Sign, "CKR_DEVICE_ERROR", Token, Unknown),
            (Sign, "CKR_SESSION_CLOSED", Session, Unknown),
            (Sign, "CKR_USER_NOT_LOGGED_IN", Session, Refused),
            (Sign, "CKR_TOKEN_NOT_PRESENT", Token, Refused),
            (Sign, "CKR_BUFFER_TOO_SMALL", Mismatch, Unknown),
            (Sign, "CKR_VENDOR_DEFINED 0x80000001", Token, Unknown),
            (Prepare, "CKR_ARGUMENTS_BAD", Unsupported, Refused),
            (Prepare, "CKR_KEY_HANDLE_INVALID", Session, Refused),
            (Prepare, "CKR_DEVICE_REMOVED", Token, Refused),
            (Login, "CKR_PIN_INCORRECT", Pin, Refused),
            (Login, "CKR_PIN_LOCKED", Pin, Refused),
            (Login, "CKR_DEVICE_ERROR", Token, Unknown),
            (Login, "CKR_VENDOR_DEFINED 0x80000001", Token, Unknown),
            (Login, "CKR_TOKEN_NOT_PRESENT", Token, Refused),
            (Make, "CKR_TEMPLATE_INCONSISTENT", Unsupported, Refused),
            (Make, "CKR_DEVICE_ERROR", Token, Unknown),
            (Look, "CKR_CRYPTOKI_NOT_INITIALIZED", Module, Refused),
        ] {
            assert_eq!(classify(act, value), (class, outcome), "{act:?} {value}");
        }
    }

    #[test]
    fn values_and_functions_have_the_names_of_the_standard() {
        assert_eq!(value_name(RvError::EncryptedDataLenRange), "CKR_ENCRYPTED_DATA_LEN_RANGE");
        assert_eq!(value_name(RvError::RandomNoRng), "CKR_RANDOM_NO_RNG");
        assert_eq!(value_name(RvError::UnknownErrorCode(0x203)), "CKR_KEY_EXHAUSTED");
        assert_eq!(value_name(RvError::UnknownErrorCode(0x2ff)), "0x000002ff");
        assert_eq!(value_name(RvError::VendorDefined(0x8000_0001)), "CKR_VENDOR_DEFINED 0x80000001");
        assert_eq!(function_name(Function::InitPIN), "C_InitPIN");
    }
}
