//! The load of a bench: callers that have licenses signed, each on a connection of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::cli::connect;
use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::grpc::client::{Channel, Connection, LicensingClient, NodeIdentity, failed};
use crate::grpc::v1;
use crate::xrml::time::XrmlTime;

/// Most callers at a time.
pub(super) const CALLERS_MAX: usize = 256;
/// Rights of the license that is signed; with their sealed keys they make a BODY of about 5 kB.
const RIGHTS: [&str; 4] = ["VIEW", "PRINT", "EDIT", "FORWARD"];

/// A cluster, a node, and the text to be signed.
pub(super) struct Load {
    identity: NodeIdentity,
    cluster: String,
    body: [String; 2],
}

/// What callers have seen.
#[derive(Default)]
pub(super) struct Measured {
    /// How long each signature took, in microseconds.
    pub(super) times_us: Vec<u64>,
    /// Signatures per second, in each run.
    pub(super) rates: Vec<f64>,
}

impl Measured {
    /// The time that so many of a hundred signatures did not take longer than, in microseconds.
    pub(super) fn percentile_us(&mut self, percent: usize) -> u64 {
        self.times_us.sort_unstable();
        self.times_us.get(self.times_us.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0)
    }
}

impl Load {
    /// Makes and enrolls a cluster and a node of it with the service of this data directory, by the commands that people
    /// type: an authority, the request carried to it, the response carried back, a join token, the join.
    pub(super) fn prepare(keyward: &Path, place: &Path, data: &Path) -> Result<Self> {
        let path = |name: &str| place.join(name).display().to_string();
        let data = data.display().to_string();
        let run = |args: &[&str]| run(keyward, args);
        run(&["authority", "init", &path("authority"), "--pin", &path("pin.pem"), "--listen", "127.0.0.1:0"])?;
        let url = "https://rms.example.test/_wmcs";
        let (request, response) = (path("request.xml"), path("response.xml"));
        let made =
            run(&["cluster", "create", "bench", "--url", url, "--offline", "--request", &request, "--data", &data])?;
        let words = made["enrollment_request"]["words"].as_str().unwrap_or_default();
        run(&["authority", "process", &path("authority"), &request, "--words", words, "--out", &response])?;
        let cluster = run(&["enroll", "import", "bench", &response, "--pin", &path("pin.pem"), "--data", &data])?;
        run(&["node", "invite", "bench", "--cluster", "bench", "--out", &path("join.toml"), "--data", &data])?;
        run(&["node", "join", &path("join.toml"), "--out", &path("node")])?;
        let (_, identity) = connect::node_identity(&place.join("node"))?;
        let modulus = made["key"]["public_key"]["modulus_le_base64"].as_str().unwrap_or_default();
        let body = draft(cluster["guid"].as_str().unwrap_or_default(), url, modulus)?;
        Ok(Load { identity, cluster: "clusters/bench".into(), body })
    }

    /// Bytes of the BODY that is signed.
    pub(super) fn body_bytes(&self) -> usize {
        self.text().len()
    }

    /// The BODY with the time of now.
    fn text(&self) -> String {
        let [before, after] = &self.body;
        format!("{before}{}{after}", XrmlTime::from_moment(clock::now()))
    }

    /// Opens a connection for each caller and asks once over it: the token has found its key by then.
    pub(super) async fn callers(&self, callers: usize) -> Result<Callers> {
        let request = v1::SignDocumentRequest { cluster: self.cluster.clone(), body: self.text() };
        let mut clients = Vec::with_capacity(callers);
        for _ in 0..callers {
            let mut client = Connection::node(&self.identity).await?.licensing();
            client.sign_document(request.clone()).await.map_err(failed)?;
            clients.push(client);
        }
        Ok(Callers { clients, request })
    }
}

/// Connected callers and what they ask.
pub(super) struct Callers {
    clients: Vec<LicensingClient<Channel>>,
    request: v1::SignDocumentRequest,
}

impl Callers {
    /// Lets them ask one after the other, each waiting for its answer, for this long, and adds what that showed.
    pub(super) async fn run(&self, duration: Duration, measured: &mut Measured) -> Result<()> {
        let start = Instant::now();
        let tasks: Vec<_> = self
            .clients
            .iter()
            .map(|client| {
                let (mut client, request) = (client.clone(), self.request.clone());
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    while start.elapsed() < duration {
                        let asked = Instant::now();
                        client.sign_document(request.clone()).await.map_err(failed)?;
                        times.push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
                    }
                    Ok::<_, Error>(times)
                })
            })
            .collect();
        let before = measured.times_us.len();
        for task in tasks {
            let task = task.await.map_err(|fault| Error::new(Reason::Internal, "a caller broke off").detail(fault))?;
            measured.times_us.extend(task?);
        }
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 signatures")]
        let signatures = (measured.times_us.len() - before) as f64;
        measured.rates.push(signatures / start.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Runs a command of this program; gives what it prints as JSON.
fn run(keyward: &Path, args: &[&str]) -> Result<Value> {
    let failed = |words: String| Error::new(Reason::Internal, format!("keyward {}: {words}", args.join(" ")));
    let output = std::process::Command::new(keyward).args(args).args(["--output", "json"]).output();
    let output = output.map_err(|fault| failed(fault.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    // A command may show more than one object; the last one is its result.
    let shown = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    shown.last().transpose().map_err(|fault| failed(fault.to_string())).map(Option::unwrap_or_default)
}

/// A use license of this cluster, in two parts: what stands before the text of ISSUEDTIME and what stands after.
fn draft(guid: &str, url: &str, modulus_le_base64: &str) -> Result<[String; 2]> {
    let mut user: [u8; 256] = clock::random()?;
    // Of full length and odd, as a modulus is.
    user[255] |= 0x80;
    user[0] |= 1;
    let sealed = STANDARD.encode(clock::random::<336>()?);
    let key = |modulus: &str| {
        format!(
            "<PUBLICKEY><ALGORITHM>RSA</ALGORITHM><PARAMETER name=\"public-exponent\"><VALUE encoding=\"integer32\">65537\
             </VALUE></PARAMETER><PARAMETER name=\"modulus\"><VALUE encoding=\"base64\" size=\"2048\">{modulus}</VALUE>\
             </PARAMETER></PUBLICKEY>"
        )
    };
    let rights: String = RIGHTS
        .iter()
        .map(|right| {
            format!(
                "<{right}><CONDITIONLIST><ACCESS><PRINCIPAL internal-id=\"1\"><ENABLINGBITS type=\"sealed-key-v2\">\
                 <VALUE encoding=\"base64\" size=\"2688\">{sealed}</VALUE></ENABLINGBITS></PRINCIPAL></ACCESS>\
                 </CONDITIONLIST></{right}>"
            )
        })
        .collect();
    let license = uuid::Uuid::new_v4();
    let after = format!(
        "</ISSUEDTIME><DESCRIPTOR><OBJECT type=\"Content-License\"><ID type=\"MS-GUID\">{{{license}}}</ID></OBJECT>\
         </DESCRIPTOR><ISSUER><OBJECT type=\"MS-DRM-Server\"><ID type=\"MS-GUID\">{guid}</ID><ADDRESS type=\"URL\">{url}\
         </ADDRESS></OBJECT>{}</ISSUER><ISSUEDPRINCIPALS><PRINCIPAL internal-id=\"1\"><OBJECT type=\"Group-Identity\">\
         <ID type=\"Windows\">S-1-5-21-1-2-3-1118</ID><NAME>alice@example.test</NAME></OBJECT>{}</PRINCIPAL>\
         </ISSUEDPRINCIPALS><WORK><OBJECT><ID type=\"MS-GUID\">{{{license}}}</ID></OBJECT><METADATA><OWNER><OBJECT>\
         <ID type=\"Windows\" /><NAME>alice@example.test</NAME></OBJECT></OWNER></METADATA><RIGHTSGROUP \
         name=\"Main-Rights\"><RIGHTSLIST>{rights}</RIGHTSLIST></RIGHTSGROUP></WORK></BODY>",
        key(modulus_le_base64),
        key(&STANDARD.encode(user)),
    );
    Ok(["<BODY type=\"LICENSE\" version=\"3.0\"><ISSUEDTIME>".to_owned(), after])
}
