//! [`MethodTable`]: which rpcs stream in which direction, from the descriptors of all services.

use prost_reflect::DescriptorPool;

use crate::{proto::DESCRIPTORS, serve::path_map::PathMap};

/// The path of the stream whose items are calls.
pub(in crate::serve) const SESSION: &str = "/sagad.v1.SagaService/Session";

/// How a method streams, and who bounds its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::serve) struct Form {
    /// The client sends any number of messages.
    pub(in crate::serve) many_requests: bool,
    /// The server sends any number of messages.
    pub(super) many_answers: bool,
    /// Its client may read as slowly as it likes: a server stream, unless its messages answer calls (`Session`).
    pub(in crate::serve) is_read_at_leisure: bool,
    /// A stream of health or reflection: no limit of the contract's own services covers it.
    pub(super) is_other_stream: bool,
    /// A health watch, which needs no credentials.
    pub(super) is_health_watch: bool,
}

/// The properties of all methods, by path.
#[derive(Debug)]
pub(in crate::serve) struct Methods(PathMap<Form>);

impl Methods {
    /// The methods of the contract, of health and of reflection.
    ///
    /// # Errors
    /// A descriptor that can't be read: a mistake in the build.
    pub(in crate::serve) fn of_all_services() -> Result<Self, prost_reflect::DescriptorError> {
        let mut forms = Vec::new();
        let all = [
            DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        for set in all {
            for service in DescriptorPool::decode(set)?.services() {
                for method in service.methods() {
                    let (many_requests, many_answers) = (method.is_client_streaming(), method.is_server_streaming());
                    let is_other_stream = (many_requests || many_answers) && service.package_name() != "sagad.v1";
                    let path = format!("/{}/{}", service.full_name(), method.name());
                    let is_read_at_leisure = many_answers && path != SESSION;
                    let is_health_watch = is_other_stream && service.package_name() == "grpc.health.v1";
                    let form =
                        Form { many_requests, many_answers, is_read_at_leisure, is_other_stream, is_health_watch };
                    forms.push((path, form));
                }
            }
        }
        Ok(Methods(forms.into_iter().collect()))
    }

    /// The properties of the method with this path. An unknown one takes one request, and is refused.
    pub(in crate::serve) fn form(&self, path: &str) -> Form {
        self.0.get(path).copied().unwrap_or_default()
    }

    /// All paths, each with whether it streams.
    pub(in crate::serve) fn paths(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0.iter().map(|(path, form)| (path.as_str(), form.many_requests || form.many_answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_known_by_their_paths() {
        let methods = Methods::of_all_services().unwrap();
        let form = |path: &str| {
            let Form { many_requests, many_answers, is_other_stream, .. } = methods.form(path);
            (many_requests, many_answers, is_other_stream)
        };
        let watches: Vec<_> = methods.0.iter().filter(|(_, form)| form.is_health_watch).map(|(path, _)| path).collect();
        assert_eq!(watches, ["/grpc.health.v1.Health/Watch"]);
        assert_eq!(form("/sagad.v1.SagaService/Claim"), (false, false, false));
        assert_eq!(form("/sagad.v1.SagaService/KeepAlive"), (true, true, false));
        assert_eq!(form(SESSION), (true, true, false));
        assert!(!methods.form(SESSION).is_read_at_leisure, "its answers are those of calls");
        assert!(methods.form("/sagad.v1.SagaService/KeepAlive").is_read_at_leisure);
        assert_eq!(form("/sagad.v1.SagaService/WatchStale"), (false, true, false));
        assert_eq!(form("/grpc.health.v1.Health/Watch"), (false, true, true));
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            assert_eq!(form(&path), (true, true, true));
        }
    }
}
