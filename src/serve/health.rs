//! What `grpc.health.v1.Health` says about the daemon.

use tonic::codec::CompressionEncoding;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthApi, HealthServer},
    server::{HealthReporter, HealthService},
};

use crate::proto::{admin_service_server, saga_service_server};

/// What can be asked for: the daemon as a whole, and each service. They all stand and fall with the store.
pub(super) const NAMES: [&str; 3] = ["", saga_service_server::SERVICE_NAME, admin_service_server::SERVICE_NAME];

/// Largest health request: a service's name.
const MESSAGE_BYTES: usize = 4096;

/// The reporting side of the health service.
pub(super) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// A health service that says `NOT_SERVING`, and its reporting side. (A new reporter says `SERVING`.)
    pub(super) async fn not_serving() -> (Self, HealthServer<impl HealthApi + use<>>) {
        let health = Health { reporter: HealthReporter::new() };
        health.say(ServingStatus::NotServing).await;
        let service = health.service();
        (health, service)
    }

    /// A service that says the same.
    pub(super) fn service(&self) -> HealthServer<impl HealthApi + use<>> {
        let service = HealthService::from_health_reporter(self.reporter.clone());
        HealthServer::new(service).max_decoding_message_size(MESSAGE_BYTES).accept_compressed(CompressionEncoding::Gzip)
    }

    /// From now on it says `SERVING`.
    pub(super) async fn serving(&self) {
        self.say(ServingStatus::Serving).await;
    }

    /// Says `NOT_SERVING` to those who watch, and ends their watches: they would keep their connections open for ever.
    pub(super) async fn end(mut self) {
        self.say(ServingStatus::NotServing).await;
        for name in NAMES {
            self.reporter.clear_service_status(name).await;
        }
    }

    async fn say(&self, status: ServingStatus) {
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
