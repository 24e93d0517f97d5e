//! How the programs reach a server: the form of its address, web proxies, and channels.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use grpcio::{Channel, ChannelBuilder, Environment};

use crate::front::Dial;

/// The longest message taken from a server.
pub(crate) const MAX_MESSAGE: i32 = 64 << 20;
/// How often who was connected to is pinged, so that one which went away without a word is noticed.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(20);
/// The same with one that wants no pings: servers of gRPC that are not set otherwise, as the article's, end a connection on which pings
/// come more often than every five minutes, and nothing else.
pub(crate) const RARE_KEEPALIVE: Duration = Duration::from_secs(310);
/// What C-core says then.
pub(crate) const TOO_MANY_PINGS: &str = "Too many pings";
/// What C-core says of a server that does not speak HTTP/2, or not without TLS.
pub(crate) const HTTP_1: &str = "http1.x server";
/// How long the answer to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection with TLS may take to come about, in milliseconds. The other end bounds each address and TLS itself.
const TLS_CONNECT: i32 = 30_000;
/// The variables in which C-core looks for a web proxy. The first that is set counts; an empty one means none.
const PROXY_VARIABLES: [&str; 3] = ["grpc_proxy", "https_proxy", "http_proxy"];
/// The variables that name hosts to reach without it. The first that is set counts.
const NO_PROXY_VARIABLES: [&str; 2] = ["no_grpc_proxy", "no_proxy"];

/// Whether it is an address of a server: `host:port`, or `unix:` and a path. Else what is wrong with it. An IPv6 address is in
/// brackets, or its end would be taken for the port.
pub(crate) fn check(address: &str) -> Result<(), String> {
    let form = "it must be host:port, such as 127.0.0.1:50051";
    if let Some((scheme, rest)) = address.split_once("://") {
        return Err(format!("{form}; leave out {scheme}://{}", if rest.contains('/') { " and the path" } else { "" }));
    }
    match address.rsplit_once(':') {
        _ if address.contains('\0') => Err(form.into()),
        Some(("unix", path)) if !path.is_empty() => Ok(()),
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => {
            Err(format!("{form}; an IPv6 address is in brackets: [{host}]:{port}"))
        }
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(()),
        None if !address.is_empty() => Err(format!("{form}; the port is missing")),
        _ => Err(form.into()),
    }
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@'))
}

/// Whether what is at an address is on this machine.
pub(crate) fn is_here(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "unix" || host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

/// The settings that all channels have. `connect_timeout`: how long a try to connect to one of the server's addresses may take
/// before the next one is tried.
pub(crate) fn channel_builder(
    env: Arc<Environment>,
    server: &str,
    keepalive: Duration,
    connect_timeout: Duration,
) -> ChannelBuilder {
    let milliseconds = i32::try_from(connect_timeout.as_millis()).unwrap_or(i32::MAX);
    ChannelBuilder::new(env)
        .max_receive_message_len(MAX_MESSAGE)
        .keepalive_time(keepalive)
        .keepalive_timeout(PING_TIMEOUT)
        .enable_http_proxy(proxy(server).is_some())
        // GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, which is what C-core bounds one try by; 20 s unless said. grpcio has no name for it.
        .raw_cfg_int(c"grpc.min_reconnect_backoff_ms".to_owned(), milliseconds)
        // GRPC_ARG_DNS_ARES_QUERY_TIMEOUT_MS: two minutes unless said, also for an address of IPv6 when that of IPv4 is known.
        .raw_cfg_int(c"grpc.dns_ares_query_timeout".to_owned(), RESOLVE)
        // Each channel with a connection of its own, which does not wait because of the failures of another.
        .use_local_subchannel_pool(true)
}

/// How long names are looked up, in milliseconds. What was found by then counts: some name servers never answer for IPv6.
const RESOLVE: i32 = 10_000;

/// The channel to a server: by TLS, if there is a way for that.
pub(crate) fn connect(builder: ChannelBuilder, server: &str, dial: Option<&Dial>) -> Channel {
    match dial {
        // What is on the way is the other end's, the proxy included. The server's name is what a proxy goes by.
        Some(dial) => builder
            .enable_http_proxy(false)
            .default_authority(server)
            .raw_cfg_int(c"grpc.min_reconnect_backoff_ms".to_owned(), TLS_CONNECT)
            .connect(dial.target()),
        None => builder.connect(server),
    }
}

/// The server as messages name it: with the web proxy that is in between.
pub(crate) fn shown(server: &str) -> Cow<'_, str> {
    match proxy(server) {
        Some((variable, value)) => {
            // Without user and password.
            let host = value.trim_end_matches('/').rsplit(['@', '/']).next().unwrap_or_default();
            Cow::Owned(format!(
                "{server} through the proxy {host} (set by {variable}; no_proxy names hosts to reach without)"
            ))
        }
        None => Cow::Borrowed(server),
    }
}

/// The web proxy for a server, if there is one: the variable that names it, and its value.
pub(crate) fn proxy(server: &str) -> Option<(&'static str, String)> {
    proxy_by(server, |variable| std::env::var(variable).ok())
}

/// C-core's rules, and one that it does not have: what is on this machine is reached without a proxy.
fn proxy_by(server: &str, get: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    let (host, _) = server.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // C-core reads networks, as 10.0.0.0/8, in there as well.
    let exempt = NO_PROXY_VARIABLES.into_iter().find_map(&get).unwrap_or_default();
    let is_exempt = exempt.split(',').map(str::trim).any(|entry| !entry.is_empty() && host.ends_with(entry));
    let set = PROXY_VARIABLES.into_iter().find_map(|variable| Some((variable, get(variable)?)));
    set.filter(|(_, value)| !value.is_empty() && !is_here(server) && !is_exempt)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_or_a_unix_socket() {
        for good in
            ["127.0.0.1:50052", "localhost:1", "[::1]:50052", "unix:/run/contact.sock", "ipv4:10.0.0.1:1,10.0.0.2:1"]
        {
            assert_eq!(check(good), Ok(()));
        }
        for bad in ["", ":", "localhost", "localhost:", "localhost:x", ":50052", "http://a:1", "unix:", "a\0:1"] {
            assert!(check(bad).unwrap_err().contains("host:port"), "{bad}");
        }
        for bad in ["a:0", "a b:1", " a:1", "a\n:1", "a/b:1", "me@a:1"] {
            assert!(check(bad).unwrap_err().contains("host:port"), "{bad}");
        }
        assert!(check("::1:50052").unwrap_err().contains("in brackets: [::1]:50052"));
        assert!(check("http://a:1/").unwrap_err().contains("leave out http://"));
        assert!(check("localhost").unwrap_err().contains("the port is missing"));
    }

    #[test]
    fn a_web_proxy_is_used_for_what_is_neither_here_nor_exempt() {
        let by = |server: &str, variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned());
            proxy_by(server, get).map(|(variable, _)| variable)
        };
        let set = ("http_proxy", "http://proxy:3128");
        assert_eq!(by("a.example:1", &[]), None);
        assert_eq!(by("a.example:1", &[set]), Some("http_proxy"));
        assert_eq!(by("a.example:1", &[set, ("grpc_proxy", "http://other:1")]), Some("grpc_proxy"));
        assert_eq!(by("a.example:1", &[set, ("grpc_proxy", "")]), None);
        assert_eq!(by("a.example:1", &[set, ("no_proxy", "b.example, .example")]), None);
        assert_eq!(by("a.example:1", &[set, ("no_proxy", ".example"), ("no_grpc_proxy", "x")]), Some("http_proxy"));
        for here in ["localhost:1", "127.0.0.9:1", "[::1]:1", "unix:/run/contact.sock"] {
            assert_eq!(by(here, &[set]), None, "{here}");
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn any_bytes_are_an_address_or_are_refused() {
        const ADDRESSES: &[&str] =
            &["127.0.0.1:50051", "[::1]:1", "unix:/run/a.sock", "http://a:1/", "ipv4:10.0.0.1:1,10.0.0.2:1"];
        crate::fuzz::any_text(ADDRESSES, 4096, |text| {
            if check(text).is_ok() {
                assert!(text.contains(':') && !text.contains('\0'));
            }
            proxy_by(text, |variable| Some(format!("{variable}{text}")));
        });
    }
}
