//! `grpc` against tonic's health service.

use std::io;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use plimsoll::check::tls::{TlsClient, Trust};
use plimsoll::check::{Grpc, Probe};
use plimsoll::event::Verdict;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::health_reporter;

use super::authority::{Authority, NAME};
use super::server::Server;
use super::{BOTH, asked, down, said};

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    health: HealthServer<impl Health>,
) -> io::Result<()> {
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(health))
        .await
        .map_err(io::Error::other)
}

fn of(service: &str, tls: Option<TlsClient>) -> Probe {
    Probe::Grpc(Grpc {
        service: service.into(),
        tls,
        ..Grpc::default()
    })
}

#[tokio::test]
async fn health_as_the_server_says() {
    for at in BOTH {
        let (reporter, health) = health_reporter();
        reporter
            .set_service_status("shop", ServingStatus::Serving)
            .await;
        reporter
            .set_service_status("ill", ServingStatus::NotServing)
            .await;
        reporter
            .set_service_status("odd", ServingStatus::Unknown)
            .await;
        let server = Server::start(at, move |stream| serve(stream, health.clone())).await;
        for (service, expected) in [
            ("", Verdict::Up),
            ("shop", Verdict::Up),
            ("ill", down("NOT_SERVING")),
            ("odd", down("UNKNOWN")),
            ("none", down("gRPC: NOT_FOUND, service not registered")),
        ] {
            let verdict = said(server.address, asked(of(service, None))).await;
            assert_eq!(verdict, expected, "{service}");
        }
    }
}

#[tokio::test]
async fn over_tls() {
    let authority = Authority::new();
    let signed = authority.sign(NAME);
    let client = TlsClient {
        server_name: Some(NAME.into()),
        trust: Trust::Authorities(authority.file()),
        ..TlsClient::default()
    };
    for (protocols, expected) in [
        (&[&b"h2"[..]][..], Verdict::Up),
        (
            &[b"http/1.1"],
            down("TLS: the server takes no HTTP/2 (ALPN)"),
        ),
        (&[], down("TLS: the server takes no HTTP/2 (ALPN)")),
    ] {
        let (_reporter, health) = health_reporter();
        let acceptor = signed.acceptor_of(protocols);
        let server = Server::start("127.0.0.1:0", move |stream| {
            let (acceptor, health) = (acceptor.clone(), health.clone());
            async move { serve(acceptor.accept(stream).await?, health).await }
        })
        .await;
        let verdict = said(server.address, asked(of("", Some(client.clone())))).await;
        assert_eq!(verdict, expected);
    }
}
