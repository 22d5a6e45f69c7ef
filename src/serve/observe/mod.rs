//! Metrics, logs and traces of calls. A call is observed before anything else is done with it, so refused calls are seen,
//! too. Its status is in the headers of a refusal and in the trailers of other answers.

mod call_observer;
mod observed_call;
mod rpc_metrics;

pub(super) use call_observer::CallObserver;
pub(super) use observed_call::ObservedCall;
pub(super) use rpc_metrics::{MethodMetrics, RpcMetrics};
