//! [`MethodTable`]: which rpcs stream in which direction, from the descriptors of all services.

use prost_reflect::DescriptorPool;

use crate::{proto::DESCRIPTORS, serve::path_map::PathMap};

/// The path of the stream whose items are calls.
pub(in crate::serve) const SESSION: &str = "/sagad.v1.SagaService/Session";

/// How a method streams, and who bounds its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::serve) struct MethodProperties {
    /// The client sends any number of messages.
    pub(in crate::serve) client_streaming: bool,
    /// The server sends any number of messages.
    pub(super) server_streaming: bool,
    /// Its client may read as slowly as it likes: a server stream, unless its messages answer calls (`Session`).
    pub(in crate::serve) may_be_read_slowly: bool,
    /// A stream of health or reflection: no limit of the contract's own services covers it.
    pub(super) is_library_stream: bool,
    /// A health watch, which needs no credentials.
    pub(super) is_health_watch: bool,
}

/// The properties of all methods, by path.
#[derive(Debug)]
pub(in crate::serve) struct MethodTable(PathMap<MethodProperties>);

impl MethodTable {
    /// The methods of the contract, of health and of reflection.
    ///
    /// # Errors
    /// A descriptor that can't be read: a mistake in the build.
    pub(in crate::serve) fn of_all_services() -> Result<Self, prost_reflect::DescriptorError> {
        let mut methods = Vec::new();
        let all = [
            DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        for set in all {
            for service in DescriptorPool::decode(set)?.services() {
                for method in service.methods() {
                    let (client_streaming, server_streaming) =
                        (method.is_client_streaming(), method.is_server_streaming());
                    let is_library_stream =
                        (client_streaming || server_streaming) && service.package_name() != "sagad.v1";
                    let path = format!("/{}/{}", service.full_name(), method.name());
                    let may_be_read_slowly = server_streaming && path != SESSION;
                    let is_health_watch = is_library_stream && service.package_name() == "grpc.health.v1";
                    let properties = MethodProperties {
                        client_streaming,
                        server_streaming,
                        may_be_read_slowly,
                        is_library_stream,
                        is_health_watch,
                    };
                    methods.push((path, properties));
                }
            }
        }
        Ok(MethodTable(methods.into_iter().collect()))
    }

    /// The properties of the method with this path. An unknown one takes one request, and is refused.
    pub(in crate::serve) fn properties(&self, path: &str) -> MethodProperties {
        self.0.get(path).copied().unwrap_or_default()
    }

    /// All paths, each with whether it streams.
    pub(in crate::serve) fn paths(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0
            .iter()
            .map(|(path, properties)| (path.as_str(), properties.client_streaming || properties.server_streaming))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_known_by_their_paths() {
        let methods = MethodTable::of_all_services().unwrap();
        let properties = |path: &str| {
            let MethodProperties { client_streaming, server_streaming, is_library_stream, .. } =
                methods.properties(path);
            (client_streaming, server_streaming, is_library_stream)
        };
        let watches: Vec<_> =
            methods.0.iter().filter(|(_, properties)| properties.is_health_watch).map(|(path, _)| path).collect();
        assert_eq!(watches, ["/grpc.health.v1.Health/Watch"]);
        assert_eq!(properties("/sagad.v1.SagaService/Claim"), (false, false, false));
        assert_eq!(properties("/sagad.v1.SagaService/KeepAlive"), (true, true, false));
        assert_eq!(properties(SESSION), (true, true, false));
        assert!(!methods.properties(SESSION).may_be_read_slowly, "its answers are those of calls");
        assert!(methods.properties("/sagad.v1.SagaService/KeepAlive").may_be_read_slowly);
        assert_eq!(properties("/sagad.v1.SagaService/WatchStale"), (false, true, false));
        assert_eq!(properties("/grpc.health.v1.Health/Watch"), (false, true, true));
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            assert_eq!(properties(&path), (true, true, true));
        }
    }
}
