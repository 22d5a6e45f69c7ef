//! [`Health`]: the daemon's `grpc.health.v1.Health` service.

use tonic::codec::CompressionEncoding;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthApi, HealthServer},
    server::{HealthReporter, HealthService},
};

use crate::proto::{admin_service_server, saga_service_server};

/// The names that can be queried: the daemon as a whole, and each service. All depend on the store, so all have one status.
pub(super) const NAMES: [&str; 3] = ["", saga_service_server::SERVICE_NAME, admin_service_server::SERVICE_NAME];

/// Largest health request, in bytes: it holds a service's name.
const MESSAGE_BYTES: usize = 4096;

/// Sets the status that the health service reports.
pub(super) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// A health service that reports `NOT_SERVING`. (A new `HealthReporter` reports `SERVING`.)
    pub(super) async fn not_serving() -> (Self, HealthServer<impl HealthApi + use<>>) {
        let health = Health { reporter: HealthReporter::new() };
        health.set_all(ServingStatus::NotServing).await;
        let service = health.service();
        (health, service)
    }

    /// One more service with the same status.
    pub(super) fn service(&self) -> HealthServer<impl HealthApi + use<>> {
        let service = HealthService::from_health_reporter(self.reporter.clone());
        HealthServer::new(service).max_decoding_message_size(MESSAGE_BYTES).accept_compressed(CompressionEncoding::Gzip)
    }

    /// Reports `SERVING` from now on.
    pub(super) async fn set_serving(&self) {
        self.set_all(ServingStatus::Serving).await;
    }

    /// Reports `NOT_SERVING`, then ends the health watches: they would keep their connections open.
    pub(super) async fn shut_down(mut self) {
        self.set_all(ServingStatus::NotServing).await;
        for name in NAMES {
            self.reporter.clear_service_status(name).await;
        }
    }

    async fn set_all(&self, status: ServingStatus) {
        for name in NAMES {
            self.reporter.set_service_status(name, status).await;
        }
    }
}
