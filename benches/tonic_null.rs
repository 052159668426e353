//! The reference: the strongest plain ext_authz server that tonic and envoy-types give, which decodes every request and
//! allows it. Never part of the product, and never to be put in front of anything.

use std::error::Error;
use std::path::Path;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::rpc;
use prost::Message;
use tokio::net::UnixListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: tonic-null (ADDRESS:PORT | unix:PATH) [FILE WITH A CheckResponse TO ANSWER]";

struct Null {
    answer: CheckResponse,
}

#[tonic::async_trait]
impl Authorization for Null {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        // Decoded, and dropped as a handler would do at its end.
        std::hint::black_box(request.get_ref());
        Ok(Response::new(self.answer.clone()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or(USAGE)?;
    let answer = match arguments.next() {
        Some(file) => CheckResponse::decode(&*std::fs::read(file)?)?,
        None => CheckResponse { status: Some(rpc::Status::default()), ..CheckResponse::default() },
    };
    let router = Server::builder().add_service(AuthorizationServer::new(Null { answer }));
    if let Some(path) = address.strip_prefix("unix:") {
        let listener = listen(Path::new(path))?;
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        router.serve_with_incoming(incoming).await?;
    } else {
        router.serve_with_incoming(TcpIncoming::bind(address.parse()?)?.with_nodelay(Some(true))).await?;
    }
    Ok(())
}

fn listen(path: &Path) -> std::io::Result<UnixListener> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}
