//! What any client finds: the contract by reflection, health, and one writer.

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

/// The same test for both versions of reflection, which differ in nothing but their types.
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

/// The files of `proto/`, as this build has compiled them (it is made again when one of them changes), and what they import.
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

/// What a client without any file gets by reflection is the contract, whole: messages, fields, numbers, and what they
/// import.
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
    assert!(wanted.len() >= 5, "what they import is among them");
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
    assert_eq!(streaming("Backup"), (false, true));
    assert!(files.iter().any(|file| file.message_type.iter().any(|message| message.name() == "Saga")));
}

#[tokio::test]
async fn m16_health_knows_the_daemon_and_both_services() {
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
    if !strace::is_usable() {
        return;
    }
    let own = tempfile::tempdir().unwrap();
    let trace = own.path().join("trace");
    let mut daemon = strace::launch(
        &own.path().join("data"),
        &trace,
        &["-y", "-e", "trace=pwrite64,write,writev,fsync,fdatasync,ftruncate"],
    )
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
    assert!(writes.len() > 10, "the trace shows writes");
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
