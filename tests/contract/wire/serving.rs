//! What the daemon serves beside the contract's calls: reflection, health, and its addresses; and that one thread writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use futures::stream;
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use sagad::proto::*;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::support::*;

const SERVICES: [&str; 3] = ["grpc.health.v1.Health", "sagad.v1.AdminService", "sagad.v1.SagaService"];

/// The same test for both versions of reflection, which differ only in their types.
macro_rules! reflection {
    ($test:ident, $version:ident) => {
        #[tokio::test]
        async fn $test() {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };
            let daemon = Daemon::start();
            let mut client = ServerReflectionClient::new(daemon.channel().await);
            let ask = |message_request| ServerReflectionRequest {
                message_request: Some(message_request),
                ..Default::default()
            };
            let requests = [
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("sagad.v1.SagaService".into())),
                ask(MessageRequest::FileContainingSymbol("sagad.v1.AdminService".into())),
                ask(MessageRequest::FileByFilename("sagad/v1/saga.proto".into())),
                ask(MessageRequest::FileContainingSymbol("sagad.v1.Nothing".into())),
            ];
            let mut answers = client.server_reflection_info(stream::iter(requests)).await.unwrap().into_inner();
            let listed = answers.message().await.unwrap().unwrap().message_response.unwrap();
            let MessageResponse::ListServicesResponse(list) = listed else { panic!("{listed:?}") };
            let names: BTreeSet<_> = list.service.iter().map(|service| service.name.as_str()).collect();
            assert!(SERVICES.iter().all(|name| names.contains(name)), "{names:?}");
            let mut files = Vec::new();
            for _ in 0..3 {
                let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
                let MessageResponse::FileDescriptorResponse(answer) = answer else { panic!("{answer:?}") };
                files.extend(answer.file_descriptor_proto);
            }
            assert_files(&files);
            match answers.message().await {
                Err(status) => assert_eq!(status.code(), Code::NotFound),
                Ok(Some(answer)) => {
                    let answer = answer.message_response.unwrap();
                    let MessageResponse::ErrorResponse(error) = answer else { panic!("{answer:?}") };
                    assert_eq!(error.error_code, Code::NotFound as i32);
                }
                Ok(None) => panic!("an unknown symbol has no answer"),
            }
        }
    };
}

/// The files of `proto/` and their imports, as this build compiled them.
fn compiled() -> BTreeMap<String, FileDescriptorProto> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let files: BTreeMap<_, _> = set.file.into_iter().map(|file| (file.name().to_owned(), file)).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    for file in fs::read_dir(root.join("sagad/v1")).unwrap() {
        let path = file.unwrap().path();
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
        assert!(files.contains_key(name), "{name} is compiled");
    }
    files
}

/// Reflection returns the whole contract: messages, fields, numbers and imports.
#[tokio::test]
async fn m16_the_published_descriptors_are_those_of_the_protos() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let daemon = Daemon::start();
    let mut client = ServerReflectionClient::new(daemon.channel().await);
    let mut wanted = compiled();
    for file in wanted.values_mut() {
        file.source_code_info = None;
    }
    assert!(wanted.len() >= 5, "the imports are among them");
    let ask = |name: &String| ServerReflectionRequest {
        message_request: Some(MessageRequest::FileByFilename(name.clone())),
        ..Default::default()
    };
    let requests: Vec<_> = wanted.keys().map(ask).collect();
    let mut answers = client.server_reflection_info(stream::iter(requests)).await.unwrap().into_inner();
    let mut published = BTreeMap::new();
    for _ in &wanted {
        let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::FileDescriptorResponse(answer) = answer else { panic!("{answer:?}") };
        for bytes in answer.file_descriptor_proto {
            let mut file = FileDescriptorProto::decode(bytes.as_ref()).unwrap();
            file.source_code_info = None;
            published.insert(file.name().to_owned(), file);
        }
    }
    assert_eq!(published, wanted);
}

reflection!(m16_reflection_v1_lists_the_services_and_serves_their_files, v1);
reflection!(m16_reflection_v1alpha_lists_the_services_and_serves_their_files, v1alpha);

fn assert_files(files: &[impl AsRef<[u8]>]) {
    let files: Vec<_> = files.iter().map(|file| FileDescriptorProto::decode(file.as_ref()).unwrap()).collect();
    let methods: Vec<_> = files.iter().flat_map(|file| &file.service).flat_map(|service| &service.method).collect();
    let streaming = |name: &str| {
        let method = methods.iter().find(|method| method.name() == name).unwrap_or_else(|| panic!("no {name}"));
        (method.client_streaming(), method.server_streaming())
    };
    assert_eq!(streaming("Claim"), (false, false));
    assert_eq!(streaming("Heartbeat"), (false, false));
    assert_eq!(streaming("WatchStale"), (false, true));
    assert_eq!(streaming("WatchEvents"), (false, true));
    assert_eq!(streaming("KeepAlive"), (true, true));
    assert_eq!(streaming("Session"), (true, true));
    assert_eq!(streaming("Backup"), (false, true));
    assert!(files.iter().any(|file| file.message_type.iter().any(|message| message.name() == "Saga")));
}

#[tokio::test]
async fn m16_health_answers_for_the_daemon_and_both_services() {
    let daemon = Daemon::start();
    let mut health = HealthClient::new(daemon.channel().await);
    for name in ["", "sagad.v1.SagaService", "sagad.v1.AdminService"] {
        let answer = health.check(HealthCheckRequest { service: name.into() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{name:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "sagad.v1.Other".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn m16_an_unknown_rpc_is_unimplemented_with_error_info() {
    use tonic_types::StatusExt;
    let daemon = Daemon::start();
    let mut client = tonic::client::Grpc::new(daemon.channel().await);
    client.ready().await.unwrap();
    let path = "/sagad.v1.SagaService/Nothing".parse().unwrap();
    let codec: tonic_prost::ProstCodec<GetStatsRequest, GetStatsResponse> = Default::default();
    let status = client.unary(tonic::Request::new(GetStatsRequest {}), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(status.get_error_details().error_info().unwrap().domain, "sagad");
}

#[tokio::test]
async fn m15_one_thread_writes_the_store() {
    needs!("strace");
    let own = tempfile::tempdir().unwrap();
    let trace = own.path().join("trace");
    let mut daemon = Launch::on(&own.path().join("data"))
        .traced(&trace, &["-y", "-e", "trace=pwrite64,write,writev,fsync,fdatasync,ftruncate"])
        .start();
    let pid = daemon.process().pid();
    let api = daemon.api().await;
    let served = fs::read_to_string(&trace).unwrap().lines().count();
    let calls = (0..40).map(|i| {
        let api = api.clone();
        tokio::spawn(async move {
            let saga = api.running(&format!("t-{i}"), "w").await;
            api.heartbeat(key(&saga).heartbeat()).await.unwrap();
            api.complete(key(&saga).complete()).await.unwrap();
        })
    });
    for call in futures::future::join_all(calls).await {
        call.unwrap();
    }
    let writer = thread_named(pid, "sagad-writer");
    daemon.terminate().await;
    let lines = strace::lines(&trace, pid);
    let writes: Vec<_> = lines[served..].iter().filter(|line| line.contains("/sagad.db")).collect();
    assert!(writes.len() > 10, "the trace has writes");
    for line in writes {
        assert!(line.starts_with(&format!("{writer} ")), "another thread than {writer} wrote: {line}");
    }
}

/// The number of the one thread with this name.
fn thread_named(pid: rustix::process::Pid, name: &str) -> String {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap().map(|task| task.unwrap().path());
    let named: Vec<_> =
        tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name)).collect();
    assert_eq!(named.len(), 1, "one writer thread");
    named[0].file_name().unwrap().to_str().unwrap().to_owned()
}

/// Runs a client command; returns its exit code and output.
fn client(server: &str, words: &[&str]) -> (Option<i32>, String) {
    let output = binary::sagad().args(["--server", server]).args(words).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test]
async fn a_host_name_is_listened_on_at_all_of_its_addresses() {
    let own = tempfile::tempdir().unwrap();
    let launch = Launch { listen: "localhost:0".into(), ..Launch::on(own.path()) };
    let mut process = launch.spawn();
    let first: std::net::SocketAddr = process.address().unwrap();
    eventually("it says where it serves", || async { process.log().contains("serving address=").then_some(()) }).await;
    let log = process.log();
    let (_, all) = log.split_once("serving address=").unwrap();
    let all: Vec<std::net::SocketAddr> =
        all.lines().next().unwrap().trim_matches('"').split(", ").map(|address| address.parse().unwrap()).collect();
    assert_eq!(all[0], first);
    for address in &all[1..] {
        assert_eq!(process.address(), Some(*address), "a line for each address");
    }
    assert!(all.iter().any(std::net::SocketAddr::is_ipv4) && all.iter().all(|address| address.port() == first.port()));
    for address in &all {
        let (code, said) = client(&format!("http://{address}"), &["health"]);
        assert_eq!(code, Some(0), "{address}: {said}");
    }
    assert_eq!(client(&format!("http://localhost:{}", first.port()), &["health"]).0, Some(0));
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.end().await.0.code(), Some(0));
    // The addresses of a host name are not known before the start, so it counts as public.
    let exposed = Launch { listen: "coordinator.example:0".into(), ..Launch::on(own.path()) };
    let (status, log) = exposed.spawn().end().await;
    assert!(status.code() == Some(2) && log.contains("coordinator.example:0") && log.contains("--insecure"), "{log}");
}

#[tokio::test]
async fn a_unix_socket_is_for_its_user_alone_and_removed_at_shutdown() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let own = tempfile::tempdir().unwrap();
    let path = own.path().join("sagad.sock");
    let named = format!("unix:{}", path.display());
    let launch = Launch { listen: named.clone(), ..Launch::on(&own.path().join("data")) };
    let mut process = launch.spawn();
    assert_eq!(process.serves_at().as_deref(), Some(named.as_str()));
    let found = path.symlink_metadata().unwrap();
    assert!(found.file_type().is_socket() && found.permissions().mode() & 0o777 == 0o600, "{found:?}");
    let (code, said) = client(&named, &["create", "--task-id", "t"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(client(&named, &["get", "t"]).1.contains("planned"));
    let seen = own.path().join("seen");
    let script = format!("echo $SAGAD_SERVER >{}", seen.display());
    let (code, said) = client(&named, &["work", "--queue", "default", "--drain", "--", "sh", "-c", &script]);
    assert_eq!((code, std::fs::read_to_string(&seen).unwrap().trim()), (Some(0), named.as_str()), "{said}");
    // A second daemon does not replace the socket.
    let second = Launch { listen: named.clone(), ..Launch::on(&own.path().join("other")) };
    let (status, log) = second.spawn().end().await;
    assert!(status.code() == Some(1) && log.contains("is in use by another process"), "{log}");
    assert_eq!(client(&named, &["health"]).0, Some(0));
    // A socket that was left by a crash is replaced.
    process.signal(rustix::process::Signal::KILL);
    process.end().await;
    assert!(path.symlink_metadata().is_ok());
    let (code, said) = client(&named, &["health"]);
    assert!(code == Some(5) && said.contains("sagad serve"), "{said}");
    let mut process = launch.spawn();
    assert_eq!(process.serves_at().as_deref(), Some(named.as_str()));
    assert_eq!(client(&named, &["get", "t"]).0, Some(0));
    process.signal(rustix::process::Signal::TERM);
    let (status, log) = process.end().await;
    assert!(status.code() == Some(0) && path.symlink_metadata().is_err(), "the socket is removed at shutdown: {log}");
    // A file that is not a socket is not touched.
    std::fs::write(&path, "mine").unwrap();
    let (status, log) = launch.spawn().end().await;
    assert!(status.code() == Some(1) && log.contains("is no socket") && log.contains("--listen"), "{log}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}
