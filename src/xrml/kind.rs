//! What a BODY is: the kinds of documents and how to tell them apart (MS-RMPR 2.2.9.3.1 and its table of fixed strings).

use std::fmt;

use super::markup::{Element, incomplete};
use super::text::Body;
use crate::error::{Error, Reason, Result};

/// The attribute `type` of BODY for certificates, use licenses and revocation lists.
pub const LICENSE: &str = "LICENSE";
/// The attribute `type` of BODY for publishing licenses.
pub const RIGHTS_LABEL: &str = "Microsoft Rights Label";
/// The attribute `type` of BODY for rights data without a template.
pub const RIGHTS_TEMPLATE: &str = "Microsoft Rights Template";
/// The attribute `type` of BODY for signed templates.
pub const OFFICIAL_TEMPLATE: &str = "Microsoft Official Rights Template";

/// The kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Certificate of an authority: CA, enrollment CA, intermediate security processor CA. Only the place in a chain
    /// tells them apart.
    Ca,
    /// Enrollment service certificate; that of a version 1 security processor CA has the same form.
    EnrollmentService,
    /// Server licensor certificate of a root cluster.
    Slc,
    /// Server licensor certificate issued by another server licensor certificate.
    SubSlc,
    /// Certificate of the authority above security processor issuers.
    ProcessorCa,
    /// Certificate of a client's own issuer of machine certificates.
    ProcessorIssuer,
    /// Machine certificate.
    Spc,
    /// Rights account certificate.
    Rac,
    /// Rights account certificate without a sealed key: the public half alone.
    UserKey,
    /// Client licensor certificate.
    Clc,
    /// Publishing license.
    Pl,
    /// Use license.
    Ul,
    /// Rights data of a publishing license, not signed.
    RightsData,
    /// Rights policy template.
    Template,
    /// Revocation list.
    RevocationList,
}

impl Kind {
    /// Its short name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ca => "ca",
            Kind::EnrollmentService => "enrollment-service",
            Kind::Slc => "slc",
            Kind::SubSlc => "sub-slc",
            Kind::ProcessorCa => "processor-ca",
            Kind::ProcessorIssuer => "processor-issuer",
            Kind::Spc => "spc",
            Kind::Rac => "rac",
            Kind::UserKey => "user-key",
            Kind::Clc => "clc",
            Kind::Pl => "pl",
            Kind::Ul => "ul",
            Kind::RightsData => "rights-data",
            Kind::Template => "template",
            Kind::RevocationList => "revocation-list",
        }
    }

    /// Its name in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Kind::Ca => "an authority's certificate",
            Kind::EnrollmentService => "an enrollment service certificate",
            Kind::Slc => "a server licensor certificate",
            Kind::SubSlc => "a server licensor certificate of a licensing-only cluster",
            Kind::ProcessorCa => "a security processor CA certificate",
            Kind::ProcessorIssuer => "a machine certificate issuer's certificate",
            Kind::Spc => "a machine certificate",
            Kind::Rac => "a rights account certificate",
            Kind::UserKey => "a user's public key certificate",
            Kind::Clc => "a client licensor certificate",
            Kind::Pl => "a publishing license",
            Kind::Ul => "a use license",
            Kind::RightsData => "rights data",
            Kind::Template => "a rights policy template",
            Kind::RevocationList => "a revocation list",
        }
    }

    /// Tells what a BODY is by its fixed strings, whether or not it is complete.
    ///
    /// # Errors
    /// `DOCUMENT_KIND` if the strings are of no known kind; `DOCUMENT_INCOMPLETE` if what tells is missing or doubled.
    pub fn of(body: &Body) -> Result<Kind> {
        let root = body.element();
        match &*body.kind() {
            LICENSE => Kind::of_license(root),
            RIGHTS_LABEL => Ok(Kind::Pl),
            RIGHTS_TEMPLATE => Ok(Kind::RightsData),
            OFFICIAL_TEMPLATE => Ok(Kind::Template),
            other => Err(unknown("BODY", other)),
        }
    }

    fn of_license(root: Element<'_>) -> Result<Kind> {
        let descriptor = root.optional("DESCRIPTOR")?.map(|descriptor| descriptor.required("OBJECT")).transpose()?;
        match descriptor.and_then(|object| object.attribute("type")).as_deref() {
            Some("DRM-CA-Certificate") => Ok(match &*principal_type(root)? {
                "DRM-Desktop-Security-Processor-Certificate-Authority" => Kind::ProcessorCa,
                _ => Kind::Ca,
            }),
            Some("Server-Licensor-Certificate") => Kind::of_licensor(root),
            Some("Machine-Certificate") => Ok(Kind::Spc),
            Some("Group-Identity-Credential") => {
                Ok(if root.optional("FEDERATIONPRINCIPALS")?.is_some() { Kind::Rac } else { Kind::UserKey })
            }
            Some("Client-Licensor-Certificate") => Ok(Kind::Clc),
            Some("Content-License") => Ok(Kind::Ul),
            Some("Revocation-List") => Ok(Kind::RevocationList),
            // The published form of a use license has no type here, and is the only one without.
            None if root.optional("WORK")?.is_some() && principal_type(root)? == "Group-Identity" => Ok(Kind::Ul),
            other => Err(unknown("DESCRIPTOR", other.unwrap_or_default())),
        }
    }

    /// Enrollment service, server and machine issuer share one descriptor: principal and issuer tell them apart.
    fn of_licensor(root: Element<'_>) -> Result<Kind> {
        if principal_type(root)? == "MS-DRM-Desktop-Security-Processor" {
            return Ok(Kind::ProcessorIssuer);
        }
        let issuer = root.required("ISSUER")?.required("OBJECT")?;
        Ok(match issuer.attribute("type").as_deref() {
            // Only the principal of a server licensor certificate has an address, and an ISSUER is a copy of one.
            Some("MS-DRM-Server") if issuer.all("ADDRESS").next().is_some() => Kind::SubSlc,
            Some("MS-DRM-Server") => Kind::Slc,
            _ => Kind::EnrollmentService,
        })
    }

    /// Whether documents of this kind certify a key that signs other documents.
    #[must_use]
    pub const fn issues(self) -> bool {
        use Kind::{Ca, Clc, EnrollmentService, ProcessorCa, ProcessorIssuer, Slc, SubSlc};
        matches!(self, Ca | EnrollmentService | Slc | SubSlc | ProcessorCa | ProcessorIssuer | Clc)
    }

    /// Refuses a BODY that is of none of these kinds, and gives the one it is of.
    ///
    /// # Errors
    /// `DOCUMENT_KIND`, naming it and the first of them.
    pub fn expect(kinds: &[Kind], body: &Body) -> Result<Kind> {
        let kind = Kind::of(body)?;
        if !kinds.contains(&kind) {
            let wanted = kinds.first().map_or("that", |kind| kind.words());
            return Err(Error::new(Reason::DocumentKind, format!("the document is {}, not {wanted}", kind.words())));
        }
        Ok(kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn unknown(place: &str, name: &str) -> Error {
    let name: String = name.chars().take(64).collect();
    Error::new(Reason::DocumentKind, format!("{place} has the type {name:?}, which is of no known kind of document"))
}

fn principal_type(root: Element<'_>) -> Result<String> {
    let principals = root.required("ISSUEDPRINCIPALS")?;
    let principal = principals.children().next().ok_or_else(|| incomplete("ISSUEDPRINCIPALS is empty"))?;
    let object = principal.required("OBJECT")?;
    Ok(object.attribute("type").unwrap_or_default().into_owned())
}
