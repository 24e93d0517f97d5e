//! Machines of their own in network namespaces, and a router that translates addresses between them.
//!
//! A namespace lasts as long as a process in it whose standard input is held here: however a test ends, nothing is left.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio, id};

use tempfile::TempDir;

use crate::common::program::said;

/// A machine, with a network, a name, an `/etc/hosts` and a `/var/lib` of its own.
pub struct Machine {
    holder: Child,
    _stdin: ChildStdin,
    folder: TempDir,
}

impl Machine {
    /// `hosts`: the names that it knows.
    fn new(name: &str, hosts: &str) -> Result<Machine, String> {
        let folder = tempfile::tempdir().unwrap();
        for part in ["lib", "home"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        fs::write(folder.path().join("hosts"), format!("127.0.0.1 localhost\n{hosts}\n")).unwrap();
        let begin = "mount --bind hosts /etc/hosts && mount --bind lib /var/lib && ip link set lo up &&
                     echo \"$0\" > /proc/sys/kernel/hostname && echo && exec cat > /dev/null";
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--uts", "sh", "-c", begin, name]).current_dir(folder.path());
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = pipes.spawn().map_err(|e| format!("unshare: {e}"))?;
        let stdin = holder.stdin.take().unwrap();
        if holder.stdout.as_mut().unwrap().read(&mut [0]).unwrap() == 0 {
            let output = holder.wait_with_output().unwrap();
            return Err(format!("network namespaces: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(Machine { holder, _stdin: stdin, folder })
    }

    /// The folder that its user is in.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Becomes a program on this machine, in the folder of its user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let home = fs::canonicalize(self.home()).unwrap();
        command.args(["--target", &self.holder.id().to_string(), "--net", "--mount", "--uts"]);
        command.arg(format!("--wd={}", home.display())).arg("--").arg(program);
        command
    }

    /// Runs a line of a shell to its end; what it printed.
    fn run(&self, line: &str) -> Result<String, String> {
        let output = self.command("sh").args(["-ec", line]).output().map_err(|e| format!("nsenter: {e}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A server that others reach at 203.0.113.1, and machines behind a router, which no one reaches from outside.
pub struct Internet {
    pub server: Machine,
    /// Each in a network of its own.
    pub agents: Vec<Machine>,
    router: Machine,
}

/// Where the server is, and where the router is for it: first, and once it has another address.
pub const SERVER: &str = "203.0.113.1";
pub const ROUTER: [&str; 2] = ["203.0.113.77", "203.0.113.78"];

/// Translates addresses, and lets in only what answers what went out. What it does not know, it drops without a word.
const RULES: &str = "
    table ip router {
        chain out { type nat hook postrouting priority srcnat; oifname \"wan\" masquerade; }
        chain through {
            type filter hook forward priority filter; policy drop;
            ct state established,related accept
            iifname != \"wan\" ct state new accept
        }
    }";

/// An error says what is missing.
fn check_programs() -> Result<(), String> {
    for (program, argument) in [("ip", "-V"), ("nft", "--version")] {
        let is_there = Command::new(program).arg(argument).output().is_ok_and(|done| done.status.success());
        is_there.then_some(()).ok_or_else(|| format!("there is no {program}"))?;
    }
    Ok(())
}

impl Internet {
    /// `name`: by which the server is known. An error says what is missing.
    pub fn new(name: &str, agents: &[&str]) -> Result<Internet, String> {
        check_programs()?;
        let hosts = format!("{SERVER} {name}");
        let (server, router) = (Machine::new("server", &hosts)?, Machine::new("router", "")?);
        let link = |inside: &str, machine: &Machine| {
            router.run(&format!("ip link add {inside} type veth peer name eth0 netns {}", machine.holder.id()))
        };
        link("wan", &server)?;
        server.run(&format!("ip address add {SERVER}/24 dev eth0; ip link set eth0 up"))?;
        let wan = format!("ip address add {}/24 dev wan; ip link set wan up", ROUTER[0]);
        router.run(&format!("{wan}; echo 1 > /proc/sys/net/ipv4/ip_forward"))?;
        // A connection whose state was lost is not taken for a new one in its midst.
        router.run("echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose")?;
        router.run(&format!("echo '{RULES}' | nft -f -"))?;
        let agents = agents.iter().enumerate().map(|(n, agent)| {
            let (agent, lan) = (Machine::new(agent, &hosts)?, format!("lan{n}"));
            link(&lan, &agent)?;
            router.run(&format!("ip address add 192.168.{n}.1/24 dev {lan}; ip link set {lan} up"))?;
            agent.run(&format!("ip address add 192.168.{n}.2/24 dev eth0; ip link set eth0 up"))?;
            agent.run(&format!("ip route add default via 192.168.{n}.1"))?;
            Ok(agent)
        });
        let agents = agents.collect::<Result<_, String>>()?;
        Ok(Internet { server, agents, router })
    }

    /// The router has another address from now on, and knows of no connection any more. Nobody is told.
    pub fn router_forgets(&self) {
        let [before, after] = ROUTER;
        self.router.run(&format!("ip address del {before}/24 dev wan; ip address add {after}/24 dev wan")).unwrap();
    }

    /// Whether somebody outside gets to an address behind the router.
    pub fn gets_in(&self, address: &str) -> bool {
        let to_router = format!("ip route replace 192.168.0.0/16 via {}", ROUTER[0]);
        let connect = format!("timeout 1 bash -c '< /dev/tcp/{address}/22' 2>&1 || true");
        // Refused would be an answer of the machine.
        self.server.run(&format!("{to_router}; {connect}; ip route del 192.168.0.0/16")).unwrap().contains("refused")
    }
}

/// Machines in one network, and this one is in it, too. Each may be kept from hearing others.
#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "tests of several servers use it"))]
pub struct Lan {
    machines: Vec<Machine>,
    /// The first three numbers of all addresses.
    net: String,
    /// What the machines are connected to.
    _switch: Machine,
}

/// Whom a machine does not hear. What it says to them is sent on.
#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "tests of several servers use it"))]
const DEAF: &str = "
    table ip lan {
        set deaf { type ipv4_addr; }
        chain in { type filter hook input priority filter; ip saddr @deaf drop; }
    }";

#[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "tests of several servers use it"))]
impl Lan {
    /// An error says what is missing.
    pub fn new(names: &[&str]) -> Result<Lan, String> {
        check_programs()?;
        // Addresses for measurements, which nobody has.
        let net = format!("198.{}.{}", rand::random_range(18..20), rand::random_range(0..256));
        let switch = Machine::new("switch", "")?;
        switch.run("ip link add hub type bridge; ip link set hub up")?;
        // Goes with the switch.
        let here = format!("lan{}", id());
        let link = format!("ip link add {here} type veth peer name here netns {}", switch.holder.id());
        let lines = format!("{link}; ip address add {net}.254/24 dev {here}; ip link set {here} up");
        said(Command::new("sh").args(["-ec", &lines]))?;
        switch.run("ip link set here master hub up")?;
        let machines = names.iter().enumerate().map(|(n, name)| {
            let machine = Machine::new(name, "")?;
            let link = format!("ip link add port{n} type veth peer name eth0 netns {}", machine.holder.id());
            switch.run(&format!("{link}; ip link set port{n} master hub up"))?;
            machine.run(&format!("ip address add {net}.{}/24 dev eth0; ip link set eth0 up", n + 1))?;
            machine.run(&format!("echo '{DEAF}' | nft -f -"))?;
            Ok(machine)
        });
        let machines = machines.collect::<Result<_, String>>()?;
        Ok(Lan { machines, net, _switch: switch })
    }

    pub fn address(&self, machine: usize) -> String {
        format!("{}.{}", self.net, machine + 1)
    }

    /// A process in its network.
    pub fn process(&self, machine: usize) -> u32 {
        self.machines[machine].holder.id()
    }

    /// Becomes a program there.
    pub fn command(&self, machine: usize, program: &str) -> Command {
        self.machines[machine].command(program)
    }

    /// From now on it does not hear those, but itself.
    pub fn deafen(&self, machine: usize, to: &[usize]) {
        let others = to.iter().filter(|other| **other != machine);
        let to = others.map(|other| self.address(*other)).collect::<Vec<_>>().join(", ");
        self.machines[machine].run(&format!("nft add element ip lan deaf {{ {to} }}")).unwrap();
    }

    /// Everyone hears everyone again.
    pub fn heal(&self) {
        self.machines.iter().for_each(|machine| drop(machine.run("nft flush set ip lan deaf").unwrap()));
    }
}

/// The lines of the blocks for a shell in a chapter of docs/security.md.
pub fn documented(chapter: &str) -> Vec<String> {
    let security = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let title = format!("{chapter}\n");
    let chapter = security.split("\n## ").find(|text| text.starts_with(&title)).unwrap();
    let blocks = chapter.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}
