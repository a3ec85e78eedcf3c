//! Machine certificate: a client's own; servers only read it (MS-RMPR 2.2.9.4).

use super::certificate::{self, Certificate};
use super::content::{Content, begin_license, end, write_descriptor, write_principal};
use super::element::{DistributionPoint, Object, Principal};
use super::kind::Kind;
use super::text::Body;
use super::time::XrmlTime;
use crate::error::Result;

/// Reads a certificate of the chain above a machine: its issuer, the authorities above that, and in version 1 the
/// activation service, which has the form of an enrollment service.
///
/// # Errors
/// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
pub fn read_issuer(body: &Body) -> Result<Certificate> {
    let kinds = [Kind::ProcessorIssuer, Kind::ProcessorCa, Kind::EnrollmentService, Kind::Ca];
    certificate::read(body, &kinds, check_issuer)
}

/// Refuses a view that is no certificate of the chain above a machine.
pub(super) fn check_issuer(content: &Content) -> Result<()> {
    certificate::check(content)?;
    certificate::check_key_sizes(content, [&[1024, 2048], &[1024, 2048]])
}

/// Refuses a view that is no machine certificate.
pub(super) fn check(content: &Content) -> Result<()> {
    Content::required(content.issued, "ISSUEDTIME")?;
    Content::required(content.descriptor.as_ref(), "DESCRIPTOR")?;
    Content::required(content.issuer.as_ref(), "ISSUER")?.required_key("ISSUER")?;
    let machine = Content::required(content.principal.as_ref(), "ISSUEDPRINCIPALS")?;
    machine.required_object("PRINCIPAL")?;
    machine.required_key("PRINCIPAL").map(|_| ())
}

/// A machine certificate, complete in all mandatory parts. Type, name and practice statement of its issuer mean nothing to
/// a server, and it has no time of validity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineCertificate {
    /// ISSUEDTIME.
    pub issued_time: XrmlTime,
    /// DESCRIPTOR, with the certificate's GUID.
    pub descriptor: Object,
    /// ISSUER.
    pub issuer: Principal,
    /// Where the client was activated.
    pub points: Vec<DistributionPoint>,
    /// The machine: object, public key, hardware id, levels. It has no internal id.
    pub machine: Principal,
}

impl MachineCertificate {
    /// Reads a BODY as a machine certificate.
    ///
    /// # Errors
    /// `DOCUMENT_KIND`, `DOCUMENT_INCOMPLETE` or `DOCUMENT_DATES`.
    pub fn read(body: &Body) -> Result<MachineCertificate> {
        Kind::expect(&[Kind::Spc], body)?;
        let content = Content::read(body)?;
        check(&content)?;
        Ok(MachineCertificate {
            issued_time: Content::required(content.issued, "ISSUEDTIME")?,
            descriptor: Content::required(content.descriptor, "DESCRIPTOR")?,
            issuer: Content::required(content.issuer, "ISSUER")?,
            points: content.points,
            machine: Content::required(content.principal, "ISSUEDPRINCIPALS")?,
        })
    }

    /// Writes the BODY as a client would; for test kits, since no server makes one.
    ///
    /// # Errors
    /// As [`MachineCertificate::read`].
    pub fn write(&self) -> Result<Body> {
        let mut xml = begin_license(self.issued_time);
        write_descriptor(&self.descriptor, &mut xml);
        self.issuer.write("ISSUER", &mut xml);
        self.points.iter().for_each(|point| point.write(&mut xml));
        write_principal("ISSUEDPRINCIPALS", &self.machine, &mut xml);
        end(xml, self, MachineCertificate::read)
    }
}
