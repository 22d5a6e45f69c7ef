//! Who paused a queue: found in the pages of `ListQueues`.

use std::collections::BTreeSet;

use tonic::Status;

use crate::{
    client::{Client, time},
    proto::{ListQueuesRequest, Queue},
};

/// What is known of these queues. Reads pages until all of them are found, at most `answers` of up to 3 MiB, and no
/// longer than one call may take.
pub async fn who_paused(client: &Client, mut names: BTreeSet<String>, answers: usize) -> Result<Vec<Queue>, Status> {
    let (mut found, mut request, begun) = (Vec::new(), ListQueuesRequest::default(), time::now());
    for _ in 0..answers {
        if names.is_empty() || time::now().since(begun) > client.timeout() {
            break;
        }
        let page = client.admin().list_queues(client.unary(request)).await?.into_inner();
        found.extend(page.queues.into_iter().filter(|queue| names.remove(&queue.queue)));
        if page.next_page_token.is_empty() {
            break;
        }
        request = ListQueuesRequest { page_token: page.next_page_token, ..ListQueuesRequest::default() };
    }
    Ok(found)
}
