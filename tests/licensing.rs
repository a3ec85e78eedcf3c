//! What a licensing node gets and does not get, over gRPC.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpStream;
use std::process::Command;

use keyward::error::Reason;
use keyward::grpc::client::{Connection, LicensingClient, NodeIdentity, failed};
use keyward::grpc::v1;
use time::Duration as Span;

use crate::kit::{Draft, Instance, KEYWARD, events, python};

/// Asks for a signature that must be refused.
async fn reason(connection: &Connection, cluster: &str, body: String) -> Reason {
    let request = v1::SignDocumentRequest { cluster: cluster.into(), body };
    failed(connection.licensing().sign_document(request).await.unwrap_err()).reason()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_license_holds_for_a_verifier_that_shares_no_code() {
    let instance = Instance::with_cluster();
    let node = instance.connect("node-1").await;
    // Characters beyond the Basic Multilingual Plane are two UTF-16 units each.
    let draft = Draft { user: "Ålice 雪 🔑 &amp; co".into(), ..instance.draft("demo") };
    let signed = node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap().into_inner();
    assert!(signed.document.contains(&draft.body()), "the BODY is kept to the character");
    assert_eq!((signed.kind.as_str(), signed.guid.as_str()), ("use-license", "{7a925b0c-b918-450b-8b7f-33719847a8b2}"));

    let (file, pin) = (instance.path("ul.xml"), instance.path("pin.pem"));
    std::fs::write(&file, &signed.document).unwrap();
    instance.cli(&["key", "get", "clusters/demo/keys/slc-1", "--pem", pin.to_str().unwrap()]).good();
    python("verify_license.py", &[&file, "--pin".as_ref(), &pin]).good();
    std::fs::write(&file, signed.document.replace("Ålice", "Alice")).unwrap();
    assert_eq!(python("verify_license.py", &[&file, "--pin".as_ref(), &pin]).code, Some(1));

    let log = instance.log();
    let intent = events(&log, "intent").into_iter().find(|event| event["act"]["do"] == "sign-document").unwrap();
    assert_eq!(intent["caller"]["name"], "clusters/demo/nodes/node-1");
    assert_eq!(intent["rule"], "nodes-sign-use-licenses");
    assert_eq!(intent["act"]["digest"], format!("sha256:{}", hex::encode(&signed.digest)));
    let outcomes = events(&log, "outcome");
    let outcome = outcomes.last().unwrap();
    let signature = outcome["result"]["result"].as_str().unwrap();
    assert!(signed.document.contains(signature), "the log holds the released signature");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_this_clusters_license_is_refused_with_its_reason_and_recorded() {
    let instance = Instance::with_cluster();
    instance.cluster("other");
    let node = instance.connect("node-1").await;
    let good = instance.draft("demo");
    let other = instance.draft("other");
    let body = good.body();
    let mode2 = include_str!("vectors/mode2/pl-online.xml");
    let label = &mode2[mode2.find("<BODY").unwrap()..mode2.find("</BODY>").unwrap() + 7];
    let rights = body.find("<VIEW>").unwrap()..body.find("</VIEW>").unwrap() + 7;
    let no_rights = body.replace(&body[rights], "");
    let cases: Vec<(&str, &str, String, Reason)> = vec![
        ("plain text", "clusters/demo", "Dear sirs".into(), Reason::DocumentMalformed),
        ("nothing", "clusters/demo", String::new(), Reason::DocumentMalformed),
        ("cut off", "clusters/demo", body[..body.len() - 9].into(), Reason::DocumentMalformed),
        ("text around", "clusters/demo", format!("{body} "), Reason::DocumentMalformed),
        ("two bodies", "clusters/demo", format!("{body}{body}"), Reason::DocumentMalformed),
        ("a comment", "clusters/demo", body.replace("<WORK>", "<!-- x --><WORK>"), Reason::DocumentForbidden),
        ("a publishing license", "clusters/demo", label.into(), Reason::DocumentKind),
        ("laid out", "clusters/demo", body.replace("<WORK>", "\n  <WORK>"), Reason::DocumentForbidden),
        ("a carriage return", "clusters/demo", body.replace("</NAME>", "\r\n.</NAME>"), Reason::DocumentForbidden),
        ("one in an end tag", "clusters/demo", body.replacen("</NAME>", "</NAME\r>", 1), Reason::DocumentForbidden),
        ("a tab in a tag", "clusters/demo", body.replacen("type=\"", "type=\"\t", 1), Reason::DocumentForbidden),
        ("no rights", "clusters/demo", no_rights, Reason::DocumentIncomplete),
        (
            "foreign guid",
            "clusters/demo",
            Draft { guid: other.guid.clone(), ..good.clone() }.body(),
            Reason::IssuerForeign,
        ),
        (
            "foreign key",
            "clusters/demo",
            Draft { modulus: other.modulus.clone(), ..good.clone() }.body(),
            Reason::IssuerKeyForeign,
        ),
        (
            "issued long ago",
            "clusters/demo",
            Draft { issued: good.issued - Span::hours(1), ..good.clone() }.body(),
            Reason::DocumentDates,
        ),
        (
            "issued in the future",
            "clusters/demo",
            Draft { issued: good.issued + Span::hours(1), ..good.clone() }.body(),
            Reason::DocumentDates,
        ),
        (
            "ended already",
            "clusters/demo",
            Draft { until: good.issued - Span::hours(1), ..good.clone() }.body(),
            Reason::DocumentDates,
        ),
        ("another cluster", "clusters/other", other.body(), Reason::PermissionDenied),
        ("no such cluster", "clusters/none", body.clone(), Reason::PermissionDenied),
        (
            "an ID that no record takes",
            "clusters/demo",
            body.replace("7a925b0c-b918-450b-8b7f-33719847a8b2", &"7".repeat(200_000)),
            Reason::DocumentIncomplete,
        ),
    ];
    for (what, cluster, body, expected) in &cases {
        assert_eq!(reason(&node, cluster, body.clone()).await, *expected, "{what}");
    }
    let log = instance.log();
    assert_eq!(events(&log, "refusal").len(), cases.len(), "each refusal is in the log");
    let signs = events(&log, "intent").into_iter().filter(|event| event["act"]["do"] == "sign-document").count();
    assert_eq!(signs, 0, "the token was not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_gets_nowhere() {
    let instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    let other = Instance::with_cluster();
    let foreign = other.identity("node-1");
    let foreign = NodeIdentity {
        certificate_pem: foreign.certificate_pem,
        key_pem: foreign.key_pem,
        ..instance.identity("node-1")
    };
    let fault = match Connection::node(&foreign).await {
        Err(fault) => fault.reason(),
        Ok(connection) => reason(&connection, "clusters/demo", draft.body()).await,
    };
    assert!(matches!(fault, Reason::PeerUnreachable | Reason::PeerRefused), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_its_own_cluster_and_administers_nothing() {
    let instance = Instance::with_cluster();
    instance.cluster("other");
    let node = instance.connect("node-1").await;
    let get = |name: &str| v1::GetClusterRequest { name: name.into() };
    let own = node.clusters().get_cluster(get("clusters/demo")).await.unwrap().into_inner();
    let key = node.keys().get_key(v1::GetKeyRequest { name: own.slc_key }).await.unwrap().into_inner();
    assert_eq!(key.state, "active");
    let denied = [
        node.clusters().get_cluster(get("clusters/other")).await.err(),
        node.clusters().list_clusters(v1::ListClustersRequest::default()).await.err(),
        node.keys().get_key(v1::GetKeyRequest { name: "clusters/other/keys/slc-1".into() }).await.err(),
        node.keys()
            .list_keys(v1::ListKeysRequest { parent: "clusters/other".into(), ..Default::default() })
            .await
            .err(),
        node.nodes()
            .list_nodes(v1::ListNodesRequest { parent: "clusters/demo".into(), ..Default::default() })
            .await
            .err(),
        node.nodes()
            .invite_node(v1::InviteNodeRequest {
                parent: "clusters/demo".into(),
                node_id: "x".into(),
                ..Default::default()
            })
            .await
            .err(),
        node.clusters()
            .create_cluster(v1::CreateClusterRequest { cluster_id: "x".into(), ..Default::default() })
            .await
            .err(),
        node.audit().export_log(v1::ExportLogRequest::default()).await.err(),
    ];
    for (place, status) in denied.into_iter().enumerate() {
        assert_eq!(failed(status.unwrap()).reason(), Reason::PermissionDenied, "call {place}");
    }
    assert_eq!(events(&instance.log(), "refusal").len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_bounded_and_named() {
    let instance = Instance::with_cluster();
    let node = instance.connect("node-1").await;
    let draft = instance.draft("demo");
    let big = |bytes: usize| Draft { user: "x".repeat(bytes), ..draft.clone() }.body();
    // A client without a bound of its own.
    let request = v1::SignDocumentRequest { cluster: "clusters/demo".into(), body: big(5 * 1024 * 1024) };
    let mut unbounded = LicensingClient::new(node.channel()).max_encoding_message_size(usize::MAX);
    let status = unbounded.sign_document(request).await.unwrap_err();
    assert_eq!(failed(status).reason(), Reason::LimitExceeded, "message over 9 MiB");
    assert_eq!(
        reason(&node, "clusters/demo", big(4 * 1024 * 1024 + 4096)).await,
        Reason::LimitExceeded,
        "document over 8 MiB"
    );
    let deep = format!("{}{}", "<A>".repeat(100_000), "</A>".repeat(100_000));
    assert_eq!(
        reason(&node, "clusters/demo", draft.body().replace("<WORK>", &format!("{deep}<WORK>"))).await,
        Reason::LimitExceeded
    );
    let attributes: String = (0..100_000).map(|n| format!(" a{n}=\"\"")).collect();
    assert_eq!(
        reason(&node, "clusters/demo", draft.body().replace("<WORK>", &format!("<A{attributes} /><WORK>"))).await,
        Reason::LimitExceeded
    );
    // The service is as well as before.
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once_get_each_their_own_license() {
    let instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    let mut callers = Vec::new();
    for n in 0..16 {
        let node = instance.connect("node-1").await;
        let draft = Draft { user: format!("user-{n}@example.test"), ..draft.clone() };
        callers.push(tokio::spawn(async move {
            for _ in 0..8 {
                let signed = node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap().into_inner();
                assert!(signed.document.contains(&draft.user));
            }
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let log = instance.log();
    let signed = events(&log, "intent").iter().filter(|event| event["act"]["do"] == "sign-document").count();
    assert_eq!(signed, 16 * 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_send_nothing_keep_operators_not_out_and_nodes_not_for_long() {
    let mut instance = Instance::with_cluster();
    let draft = instance.draft("demo");
    assert_eq!(instance.stop(), Some(0));
    let script = "ulimit -n 96; exec \"$0\" serve \"$1\"";
    instance.start_as(Command::new("bash").args(["-c", script, KEYWARD]).arg(instance.data()));
    let idle: Vec<TcpStream> = [("serving nodes on ", 75), ("joining nodes on ", 15)]
        .iter()
        .map(|(begin, count)| (instance.printed().iter().find_map(|line| line.strip_prefix(begin)).unwrap(), *count))
        .flat_map(|(address, count)| (0..count).map(move |_| TcpStream::connect(address).unwrap()))
        .collect();
    for _ in 0..3 {
        instance.cli(&["cluster", "list"]).good();
    }
    let node = instance.connect("node-1").await;
    node.licensing().sign_document(draft.request("clusters/demo")).await.unwrap();
    instance.node("demo", "node-2");
    // Nobody's connection was closed by its client.
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_health_is_told_of_a_stop_and_does_not_hold_it_up() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    let mut instance = Instance::with_cluster();
    let mut watched = Vec::new();
    for service in ["", "keyward.v1.Licensing", "keyward.v1.Audit", "store-space", "tokens/main"] {
        let channel = instance.connect("node-1").await.channel();
        let request = HealthCheckRequest { service: service.into() };
        let mut stream = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::Serving, "{service}");
        watched.push((service, stream));
    }
    let log = instance.path("serve.log");
    let stopped = tokio::task::spawn_blocking(move || instance.stop().map(|code| (code, instance)));
    for (service, mut stream) in watched {
        assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::NotServing, "{service}");
        assert!(stream.message().await.unwrap().is_none(), "{service}");
    }
    let (code, _instance) = stopped.await.unwrap().unwrap();
    assert_eq!(code, 0);
    assert!(!std::fs::read_to_string(log).unwrap().contains("are cut off"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let instance = Instance::with_cluster();
    let channel = instance.connect("node-1").await.channel();
    let request = HealthCheckRequest { service: "keyward.v1.Licensing".into() };
    let health = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["Audit", "Clusters", "Keys", "Licensing", "Nodes"] {
        assert!(names.contains(&format!("keyward.v1.{name}").as_str()), "{name} in {names:?}");
    }
}
