//! A network that can fail, between a client and the server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// Carries connections to a server, until told otherwise. Gone, with all connections, when dropped.
pub struct Proxy {
    /// Where to connect instead.
    pub address: String,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<Connection>>,
    over: AtomicBool,
    /// New connections are cut from their first byte on.
    down: AtomicBool,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// What comes is read, and goes nowhere.
    cut: Arc<AtomicBool>,
    carriers: [JoinHandle<()>; 2],
}

impl Proxy {
    /// A sound network.
    pub fn to(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        let acceptor = thread::Builder::new().name("proxy".into()).spawn({
            let (shared, server) = (shared.clone(), server.to_owned());
            move || {
                for client in listener.incoming() {
                    if shared.over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                    let cut = Arc::new(AtomicBool::new(shared.down.load(Ordering::SeqCst)));
                    let carriers = [carrier(&client, &server, &cut), carrier(&server, &client, &cut)];
                    shared.connections.lock().unwrap().push(Connection { client, server, cut, carriers });
                }
            }
        });
        Proxy { address, shared, acceptor: Some(acceptor.unwrap()) }
    }

    /// From now on nothing gets through the connections there are, and neither end is told. New ones are sound.
    pub fn cut(&self) {
        self.each(|connection| connection.cut.store(true, Ordering::SeqCst));
    }

    /// The same, and for new ones as well, until [`Proxy::mend`].
    pub fn go_down(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// New connections are sound again. Those there are end, and the client is told.
    pub fn mend(&self) {
        self.shared.down.store(false, Ordering::SeqCst);
        self.cut_and_tell_the_client();
    }

    /// What [`Proxy::cut`] does, but the client is told.
    pub fn cut_and_tell_the_client(&self) {
        self.each(|connection| {
            connection.cut.store(true, Ordering::SeqCst);
            let _ = connection.client.shutdown(Shutdown::Both);
        });
    }

    /// The connections there are end, and both ends are told.
    pub fn reset(&self) {
        self.each(|connection| {
            connection.cut.store(true, Ordering::SeqCst);
            let _ = connection.client.shutdown(Shutdown::Both);
            let _ = connection.server.shutdown(Shutdown::Both);
        });
    }

    fn each(&self, change: impl Fn(&Connection)) {
        self.shared.connections.lock().unwrap().iter().for_each(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(&self.address);
        let _ = self.acceptor.take().map(JoinHandle::join);
        self.reset();
        let connections = std::mem::take(&mut *self.shared.connections.lock().unwrap());
        for carrier in connections.into_iter().flat_map(|connection| connection.carriers) {
            let _ = carrier.join();
        }
    }
}

/// Carries one direction of a connection.
fn carrier(from: &TcpStream, to: &TcpStream, cut: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (mut from, mut to, cut) = (from.try_clone().unwrap(), to.try_clone().unwrap(), cut.clone());
    let carry = move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length) = from.read(&mut buffer) {
            let is_cut = cut.load(Ordering::SeqCst);
            if length == 0 || !is_cut && to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        if !cut.load(Ordering::SeqCst) {
            let _ = to.shutdown(Shutdown::Both);
        }
    };
    thread::Builder::new().name("proxy-carrier".into()).spawn(carry).unwrap()
}
