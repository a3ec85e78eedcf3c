//! A PKCS#11 module that forwards every call to the one named by `FAULTY_MODULE` and does what the script named by
//! `FAULTY_SCRIPT` says first. The script is read at each call, so that a test can change it while calls run.
#![allow(non_snake_case, clippy::missing_safety_doc)]

mod script;

use std::sync::OnceLock;

use cryptoki_sys::*;
use script::{Fault, Seen};

struct Real {
    list: CK_FUNCTION_LIST,
    _library: Pkcs11,
}

// SAFETY: function pointers of a module that is initialised for use from many threads.
unsafe impl Send for Real {}
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();
static OURS: OnceLock<usize> = OnceLock::new();

fn real() -> &'static CK_FUNCTION_LIST {
    &REAL
        .get_or_init(|| {
            let path = std::env::var("FAULTY_MODULE").expect("FAULTY_MODULE names the real module");
            // SAFETY: the real module is trusted as much as if the test had loaded it itself.
            unsafe {
                let library = Pkcs11::new(path).expect("the real module loads");
                let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
                assert_eq!(library.C_GetFunctionList(&raw mut list), CKR_OK);
                Real { list: *list, _library: library }
            }
        })
        .list
}

/// What to do before a call: nothing, or end it with a return value.
fn before(function: &str, session: Option<CK_SESSION_HANDLE>) -> Option<CK_RV> {
    obey(script::due(function), session)
}

fn obey(ordered: Option<Fault>, session: Option<CK_SESSION_HANDLE>) -> Option<CK_RV> {
    match ordered? {
        Fault::Return(value) => Some(value),
        Fault::Delay(wait) => {
            std::thread::sleep(wait);
            None
        }
        Fault::Hang => loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        },
        // SAFETY: this is the crash that was ordered.
        Fault::Crash => unsafe {
            std::ptr::dangling_mut::<u8>().write_volatile(1);
            None
        },
        Fault::Logout => {
            // SAFETY: the real module's own function with the caller's session.
            unsafe { real().C_Logout.expect("C_Logout")(session.unwrap_or(0)) };
            None
        }
        Fault::CloseSession => {
            // SAFETY: the real module's own function with the caller's session.
            unsafe { real().C_CloseSession.expect("C_CloseSession")(session.unwrap_or(0)) };
            None
        }
        // These change what comes back; see `after`.
        Fault::Corrupt | Fault::Shorten | Fault::Flags(_) | Fault::Swap(_, _) | Fault::Rename | Fault::Deny(..) | Fault::Spoil(_) => None,
    }
}

/// Functions that are forwarded after the script was asked. `session` names the argument that is the session.
macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) $(session $session:ident)?;)*) => {
        $(
            unsafe extern "C" fn $name($($arg: $type),*) -> CK_RV {
                #[allow(unused_mut, unused_assignments)]
                let mut session = None;
                $( session = Some($session); )?
                if let Some(value) = before(stringify!($name), session) {
                    return value;
                }
                // SAFETY: the caller's arguments, passed on as they are.
                unsafe { real().$name.expect(stringify!($name))($($arg),*) }
            }
        )*

        fn wrapped() -> CK_FUNCTION_LIST {
            CK_FUNCTION_LIST {
                $( $name: Some($name), )*
                C_GetFunctionList: Some(C_GetFunctionList),
                C_GetTokenInfo: Some(C_GetTokenInfo),
                C_Sign: Some(C_Sign),
                C_FindObjectsInit: Some(C_FindObjectsInit),
                C_GetAttributeValue: Some(C_GetAttributeValue),
                C_GenerateKeyPair: Some(C_GenerateKeyPair),
                ..*real()
            }
        }
    };
}

forward! {
    C_Initialize(args: *mut std::ffi::c_void);
    C_GetSlotList(present: CK_BBOOL, list: *mut CK_SLOT_ID, count: *mut CK_ULONG);
    C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
    C_InitToken(slot: CK_SLOT_ID, pin: *mut CK_UTF8CHAR, length: CK_ULONG, label: *mut CK_UTF8CHAR);
    C_InitPIN(session: CK_SESSION_HANDLE, pin: *mut CK_UTF8CHAR, length: CK_ULONG) session session;
    C_OpenSession(slot: CK_SLOT_ID, flags: CK_FLAGS, application: *mut std::ffi::c_void, notify: CK_NOTIFY,
        session: *mut CK_SESSION_HANDLE);
    C_CloseSession(session: CK_SESSION_HANDLE);
    C_GetSessionInfo(session: CK_SESSION_HANDLE, info: *mut CK_SESSION_INFO) session session;
    C_Login(session: CK_SESSION_HANDLE, user: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, length: CK_ULONG) session session;
    C_Logout(session: CK_SESSION_HANDLE) session session;
    C_FindObjects(session: CK_SESSION_HANDLE, objects: *mut CK_OBJECT_HANDLE, max: CK_ULONG, count: *mut CK_ULONG)
        session session;
    C_FindObjectsFinal(session: CK_SESSION_HANDLE) session session;
    C_SignInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) session session;
    C_DecryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) session session;
    C_Decrypt(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, length: CK_ULONG, out: *mut CK_BYTE,
        out_length: *mut CK_ULONG) session session;
}

/// Adds flags to what the token says of itself.
unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    let ordered = script::due("C_GetTokenInfo");
    if let Some(Fault::Return(value)) = ordered {
        return value;
    }
    // SAFETY: the caller's arguments; on success the structure is filled.
    unsafe {
        let value = real().C_GetTokenInfo.expect("C_GetTokenInfo")(slot, info);
        if let (CKR_OK, Some(Fault::Flags(flags))) = (value, ordered) {
            (*info).flags |= flags;
        }
        value
    }
}

/// Spoils a signature, or gives a byte less of it.
unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> CK_RV {
    let ordered = script::due("C_Sign");
    if let Some(Fault::Corrupt | Fault::Shorten) = ordered {
        // SAFETY: the caller's arguments; on success the buffer holds a signature of at least one byte.
        unsafe {
            let value = real().C_Sign.expect("C_Sign")(session, data, length, out, out_length);
            if value == CKR_OK && !out.is_null() {
                match ordered {
                    Some(Fault::Shorten) => *out_length -= 1,
                    _ => *out.add(10) ^= 1,
                }
            }
            return value;
        }
    }
    if let Some(value) = obey(ordered, Some(session)) {
        return value;
    }
    // SAFETY: the caller's arguments, passed on as they are.
    unsafe { real().C_Sign.expect("C_Sign")(session, data, length, out, out_length) }
}

/// Looks for another id than the one asked for: the token that holds another key under it.
unsafe extern "C" fn C_FindObjectsInit(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    match script::due("C_FindObjectsInit") {
        Some(Fault::Return(value)) => return value,
        Some(Fault::Swap(asked, given)) if !template.is_null() => {
            // SAFETY: the caller's template of `count` attributes.
            let attributes = unsafe { std::slice::from_raw_parts_mut(template, count as usize) };
            for attribute in attributes {
                if attribute.type_ == CKA_ID && attribute.ulValueLen as usize == asked.len() {
                    // SAFETY: an id of the length that was compared.
                    let id = unsafe { std::slice::from_raw_parts(attribute.pValue.cast::<u8>(), asked.len()) };
                    if id == asked {
                        attribute.pValue = Box::leak(given.clone().into_boxed_slice()).as_mut_ptr().cast();
                    }
                }
            }
        }
        ordered => {
            if let Some(value) = obey(ordered, Some(session)) {
                return value;
            }
        }
    }
    // SAFETY: the caller's arguments, with at most one pointer changed to bytes that are never freed.
    unsafe { real().C_FindObjectsInit.expect("C_FindObjectsInit")(session, template, count) }
}

/// Whether a template asks for this attribute of an object of this class.
unsafe fn asks(
    seen: Seen,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Option<*mut CK_ATTRIBUTE> {
    let mut class: CK_OBJECT_CLASS = 0;
    let mut asked = CK_ATTRIBUTE {
        type_: CKA_CLASS,
        pValue: (&raw mut class).cast(),
        ulValueLen: size_of::<CK_OBJECT_CLASS>() as CK_ULONG,
    };
    // SAFETY: room for one number, and the caller's template of `count` attributes.
    unsafe {
        real().C_GetAttributeValue.expect("C_GetAttributeValue")(session, object, &raw mut asked, 1);
        let wanted = (0..count as usize).map(|place| template.add(place)).find(|one| (**one).type_ == seen.attribute);
        wanted.filter(|_| class == seen.class)
    }
}

/// Refuses to show an attribute, or shows another value.
unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    let ordered = script::due("C_GetAttributeValue");
    // SAFETY: the caller's arguments, passed on as they are; what the real module has written may be changed.
    unsafe {
        let get = real().C_GetAttributeValue.expect("C_GetAttributeValue");
        match ordered {
            Some(Fault::Deny(seen, value)) if asks(seen, session, object, template, count).is_some() => value,
            Some(Fault::Spoil(seen)) => {
                let value = get(session, object, template, count);
                if let Some(one) = asks(seen, session, object, template, count)
                    && value == CKR_OK
                    && !(*one).pValue.is_null()
                {
                    *(*one).pValue.cast::<u8>().add(1) ^= 1;
                }
                value
            }
            ordered => obey(ordered, Some(session)).unwrap_or_else(|| get(session, object, template, count)),
        }
    }
}

/// Gives the private half of a pair another id than the one asked for.
unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let ordered = script::due("C_GenerateKeyPair");
    if let Some(Fault::Rename) = ordered {
        // SAFETY: the caller's template of `private_count` attributes.
        for attribute in unsafe { std::slice::from_raw_parts_mut(private, private_count as usize) } {
            if attribute.type_ == CKA_ID {
                attribute.pValue = vec![9u8; attribute.ulValueLen as usize].leak().as_mut_ptr().cast();
            }
        }
    }
    if let Some(value) = obey(ordered, Some(session)) {
        return value;
    }
    // SAFETY: the caller's arguments, with at most one pointer changed to bytes that are never freed.
    unsafe {
        real().C_GenerateKeyPair.expect("C_GenerateKeyPair")(
            session,
            mechanism,
            public,
            public_count,
            private,
            private_count,
            public_key,
            private_key,
        )
    }
}

/// The module's entry.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    let ours = *OURS.get_or_init(|| Box::leak(Box::new(wrapped())) as *mut CK_FUNCTION_LIST as usize);
    // SAFETY: the caller gives room for one pointer.
    unsafe { *list = ours as *mut CK_FUNCTION_LIST };
    CKR_OK
}
