//! Generates the messages, client stubs and service traits of `proto/` into `OUT_DIR/wire/`.
//!
//! `protobuf-codegen` knows messages only, so the grpcio side is written here, from the same descriptors. The pure-Rust
//! parser drops comments: they are read from the text of the proto and become the docs of what is generated.
//!
//! The programs are linked so that they bring the C++ library along, which a bare machine does not have.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, os};

use anyhow::Context as _;
use protobuf::descriptor::{FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto};
use protobuf::reflect::{EnumDescriptor, FieldDescriptor, MessageDescriptor};
use protobuf_codegen::{Codegen, Customize, CustomizeCallback};

/// The protos, by the folder of `proto/` they lie in. A folder's package becomes a module of its own: `wire::grpc_health_v1`.
const PROTOS: [(&str, &[&str]); 5] = [
    ("", &["contact", "control", "link", "log"]),
    ("google/rpc", &["error_details", "status"]),
    ("grpc/health/v1", &["health"]),
    ("grpc/reflection/v1", &["reflection"]),
    ("grpc/reflection/v1alpha", &["reflection"]),
];
/// The service that a server may pass on to another one.
const PASSED_ON: &str = "Control";
/// Those that clients need. The others come with the features `server` and `ctl`.
const OF_CLIENTS: [&str; 3] = ["contact", "error_details", "status"];

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("wire");
    let mut packages = String::new();
    let all = ["SERVER", "CTL"].iter().any(|feature| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some());
    for (folder, names) in PROTOS {
        let names: Vec<&str> = names.iter().copied().filter(|name| all || OF_CLIENTS.contains(name)).collect();
        if names.is_empty() {
            continue;
        }
        let modules = generate(folder, &names, &out.join(folder))?;
        if folder.is_empty() {
            packages += &modules;
        } else {
            fs::write(out.join(folder).join("mod.rs"), modules)?;
            writeln!(packages, "#[path = \"{folder}/mod.rs\"]\npub mod {};", folder.replace('/', "_"))?;
        }
    }
    fs::write(out.join("mod.rs"), packages)?;
    bring_the_cxx_library()
}

/// Has the programs contain what C-core needs of libstdc++, where the compiler has that as an archive. The linker looks into this folder
/// before its own ones, and finds no shared library there.
fn bring_the_cxx_library() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed=CXX");
    let (host, target) = (env::var("HOST")?, env::var("TARGET")?);
    if host != target || !target.ends_with("linux-gnu") {
        return Ok(());
    }
    let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let said = Command::new(compiler).arg("-print-file-name=libstdc++.a").output();
    // A bare name is what it says of a file that it does not have.
    let archive = said.ok().and_then(|said| String::from_utf8(said.stdout).ok()).map(|path| PathBuf::from(path.trim()));
    if let Some(archive) = archive.filter(|path| path.is_absolute()) {
        let folder = PathBuf::from(env::var("OUT_DIR")?).join("cxx");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        os::unix::fs::symlink(archive, folder.join("libstdc++.a"))?;
        println!("cargo:rustc-link-arg-bins=-L{}", folder.display());
    }
    Ok(())
}

/// Writes the modules of one folder's protos; gives their declarations.
fn generate(folder: &str, names: &[&str], out: &Path) -> anyhow::Result<String> {
    fs::create_dir_all(out)?;
    let path = |name: &str| Path::new(folder).join(name).with_extension("proto");
    let files: Vec<PathBuf> = names.iter().map(|name| Path::new("proto").join(path(name))).collect();

    let mut docs = Docs::default();
    for file in &files {
        docs.read(&fs::read_to_string(file).with_context(|| file.display().to_string())?);
    }

    Codegen::new()
        .pure()
        .include("proto")
        .inputs(&files)
        .out_dir(out)
        .customize(Customize::default().gen_mod_rs(true))
        .customize_callback(MessageDocs(docs.clone()))
        .run()?;

    let parsed = protobuf_parse::Parser::new().pure().include("proto").inputs(&files).file_descriptor_set()?;
    let mut modules = fs::read_to_string(out.join("mod.rs"))?;
    for name in names {
        let file = parsed.file.iter().find(|file| Path::new(file.name()) == path(name));
        let file = file.with_context(|| format!("{} was not parsed", path(name).display()))?;
        if !file.service.is_empty() {
            fs::write(out.join(format!("{name}_grpc.rs")), services(name, file, &docs)?)?;
            writeln!(modules, "pub mod {name}_grpc;")?;
        }
    }
    Ok(modules)
}

/// The comments of all protos, by the full name of the item they stand above (`package.Message.field`).
#[derive(Clone, Default)]
struct Docs(HashMap<String, String>);

impl Docs {
    /// Knows as much of the syntax as this project's protos use: one item a line, blocks closed by a line of their own.
    fn read(&mut self, text: &str) {
        let mut comment = String::new();
        let mut scope: Vec<Option<&str>> = Vec::new();
        for line in text.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("//") {
                comment += &escaped(text.strip_prefix(' ').unwrap_or(text));
                comment.push('\n');
                continue;
            }
            let comment = std::mem::take(&mut comment);
            if let Some(package) = line.strip_prefix("package ") {
                scope.push(Some(package.trim_end_matches(';')));
            } else if line == "}" {
                scope.pop();
            } else if line.starts_with("oneof ") {
                // Its fields are the message's.
                scope.push(None);
            } else if let Some(name) = item_name(line) {
                scope.push(Some(name));
                self.0.insert(scope.iter().copied().flatten().collect::<Vec<_>>().join("."), comment);
                if !line.ends_with('{') {
                    scope.pop();
                }
            }
        }
    }

    fn attributes(&self, full_name: &str, indent: &str) -> String {
        let comment = self.0.get(full_name.trim_start_matches('.')).map_or("", String::as_str);
        comment.lines().fold(String::new(), |mut all, line| {
            let _ = writeln!(all, "{indent}#[doc = {:?}]", format!(" {line}"));
            all
        })
    }
}

/// Keeps a comment as it is: outside of code, Markdown takes `<package>` for HTML and `[method]` for a link.
fn escaped(text: &str) -> String {
    let escape = |(at, part): (usize, &str)| match at % 2 {
        0 => part.replace('<', "\\<").replace('[', "\\["),
        _ => part.to_owned(),
    };
    text.split('`').enumerate().map(escape).collect::<Vec<_>>().join("`")
}

fn item_name(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
    match line.split_whitespace().next()? {
        "syntax" => None,
        "message" | "enum" | "service" | "rpc" => words.get(1).copied(),
        // A field or an enum value: the word before the `=`.
        _ => line.split('=').next()?.split_whitespace().last().filter(|_| line.contains('=')),
    }
}

/// Gives the comments to `protobuf-codegen`.
struct MessageDocs(Docs);

impl MessageDocs {
    fn of(&self, full_name: &str) -> Customize {
        Customize::default().before(&self.0.attributes(full_name, ""))
    }
}

impl CustomizeCallback for MessageDocs {
    fn message(&self, message: &MessageDescriptor) -> Customize {
        self.of(message.full_name())
    }

    fn field(&self, field: &FieldDescriptor) -> Customize {
        self.of(&field.full_name())
    }

    fn enumeration(&self, enumeration: &EnumDescriptor) -> Customize {
        self.of(enumeration.full_name())
    }
}

/// The grpcio side of one proto file: for each service its methods, a client stub and a trait for the server.
fn services(module: &str, file: &FileDescriptorProto, docs: &Docs) -> anyhow::Result<String> {
    let mut out = String::from("// Generated by build.rs. Do not edit.\n\n");
    let all_streams = file.service.iter().flat_map(|service| &service.method).all(|method| method.client_streaming());
    let first = if all_streams { "" } else { "First, " };
    writeln!(out, "use crate::codec::{{Admit, Decoded, {first}Requests, client_method, server_method}};")?;
    writeln!(out, "use super::{module} as pb;\n")?;
    for service in &file.service {
        write_methods(&mut out, file, service)?;
        write_client(&mut out, file, service, docs)?;
        write_server(&mut out, file, service, docs)?;
    }
    Ok(out)
}

fn full_name(file: &FileDescriptorProto, service: &ServiceDescriptorProto) -> String {
    format!("{}.{}", file.package(), service.name()).trim_start_matches('.').to_owned()
}

/// Client streaming, server streaming.
fn streams(method: &MethodDescriptorProto) -> (bool, bool) {
    (method.client_streaming(), method.server_streaming())
}

fn pb_type(full_name: &str) -> String {
    format!("pb::{}", full_name.rsplit('.').next().unwrap_or(full_name))
}

fn constant(service: &ServiceDescriptorProto, method: &MethodDescriptorProto) -> String {
    format!("{}_{}", snake(service.name()), snake(method.name())).to_uppercase()
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn write_methods(out: &mut String, file: &FileDescriptorProto, service: &ServiceDescriptorProto) -> anyhow::Result<()> {
    for method in &service.method {
        let (kind, served_as) = match streams(method) {
            (false, false) => ("Unary", "ClientStreaming"),
            (true, false) => ("ClientStreaming", "ClientStreaming"),
            (false, true) => ("ServerStreaming", "Duplex"),
            (true, true) => ("Duplex", "Duplex"),
        };
        let (name, input, output) =
            (constant(service, method), pb_type(method.input_type()), pb_type(method.output_type()));
        let path = format!("/{}/{}", full_name(file, service), method.name());
        writeln!(out, "const {name}: grpcio::Method<{input}, {output}> =")?;
        writeln!(out, "    client_method(grpcio::MethodType::{kind}, {path:?});")?;
        writeln!(out, "const {name}_SERVER: grpcio::Method<Decoded<{input}>, {output}> =")?;
        writeln!(out, "    server_method(grpcio::MethodType::{served_as}, {path:?});\n")?;
    }
    Ok(())
}

fn write_client(
    out: &mut String,
    file: &FileDescriptorProto,
    service: &ServiceDescriptorProto,
    docs: &Docs,
) -> anyhow::Result<()> {
    let (name, full_name) = (service.name(), full_name(file, service));
    out.push_str(&docs.attributes(&full_name, ""));
    writeln!(out, "#[derive(Clone)]\npub struct {name}Client {{\n    client: grpcio::Client,")?;
    writeln!(out, "    token: Option<crate::secret::Secret>,\n}}\n")?;
    writeln!(out, "impl {name}Client {{")?;
    writeln!(out, "    /// A stub that calls over `channel`.")?;
    writeln!(
        out,
        "    pub fn new(channel: grpcio::Channel) -> Self {{\n        Self {{ client: grpcio::Client::new(channel), token: None }}\n    }}"
    )?;
    writeln!(out, "\n    /// The same, whose calls say whose they are.\n    #[allow(dead_code)]")?;
    writeln!(out, "    pub(crate) fn signed(self, token: Option<crate::secret::Secret>) -> Self {{")?;
    writeln!(out, "        Self {{ token, ..self }}\n    }}")?;
    writeln!(out, "\n    /// Runs `future` on the channel's completion queue. It must never wait.")?;
    writeln!(out, "    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {{")?;
    writeln!(out, "        self.client.spawn(future);\n    }}")?;
    for method in &service.method {
        let (constant, rust) = (constant(service, method), snake(method.name()));
        let (input, output) = (pb_type(method.input_type()), pb_type(method.output_type()));
        let (request, call, answer) = match streams(method) {
            (false, false) => (true, "unary_call_async", format!("grpcio::ClientUnaryReceiver<{output}>")),
            (false, true) => (true, "server_streaming", format!("grpcio::ClientSStreamReceiver<{output}>")),
            (true, false) => (
                false,
                "client_streaming",
                format!("(grpcio::ClientCStreamSender<{input}>, grpcio::ClientCStreamReceiver<{output}>)"),
            ),
            (true, true) => (
                false,
                "duplex_streaming",
                format!("(grpcio::ClientDuplexSender<{input}>, grpcio::ClientDuplexReceiver<{output}>)"),
            ),
        };
        let parameter = if request { format!("request: &{input}, ") } else { String::new() };
        let argument = if request { "request, " } else { "" };
        out.push('\n');
        out.push_str(&docs.attributes(&format!("{full_name}.{}", method.name()), "    "));
        writeln!(out, "    pub fn {rust}(&self, {parameter}opt: grpcio::CallOption) -> grpcio::Result<{answer}> {{")?;
        writeln!(
            out,
            "        self.client.{call}(&{constant}, {argument}crate::secret::signed(opt, self.token.as_ref()))\n    }}"
        )?;
    }
    writeln!(out, "}}\n")?;
    Ok(())
}

fn write_server(
    out: &mut String,
    file: &FileDescriptorProto,
    service: &ServiceDescriptorProto,
    docs: &Docs,
) -> anyhow::Result<()> {
    let (name, full_name) = (service.name(), full_name(file, service));
    let (mut adders, mut passers) = (String::new(), String::new());
    out.push_str(&docs.attributes(&full_name, ""));
    writeln!(out, "pub trait {name} {{")?;
    for method in &service.method {
        let (constant, rust) = (constant(service, method), snake(method.name()));
        let (input, output) = (pb_type(method.input_type()), pb_type(method.output_type()));
        // For the server, every request is a stream: see `First`.
        let (streams_requests, streams_answers) = streams(method);
        let (request, argument) = match streams_requests {
            true => (format!("Requests<{input}>"), "Requests::of(requests, permit)"),
            false => (format!("First<{input}>"), "First::of(Requests::of(requests, permit))"),
        };
        let (kind, sink) = match streams_answers {
            false => ("client_streaming", format!("ClientStreamingSink<{output}>")),
            true => ("duplex_streaming", format!("DuplexSink<{output}>")),
        };
        out.push_str(&docs.attributes(&format!("{full_name}.{}", method.name()), "    "));
        writeln!(
            out,
            "    fn {rust}(&mut self, ctx: grpcio::RpcContext<'_>, request: {request}, sink: grpcio::{sink});\n"
        )?;
        let here = format!("instance.{rust}(ctx, {argument}, sink)");
        let pass = if streams_answers { "pass_many" } else { "pass_one" };
        let passed = format!(
            "match here() {{\n                Some(mut instance) => {here},\n                \
             None => elsewhere.{pass}(&{constant}, ctx, Requests::of(requests, permit), sink),\n            }}"
        );
        write_adder(
            &mut adders,
            "let (mut instance, admit) = (service.clone(), calls.clone())",
            kind,
            &constant,
            &here,
        )?;
        let captured = "let (here, elsewhere, admit) = (each.clone(), all.clone(), calls.clone())";
        write_adder(&mut passers, captured, kind, &constant, &passed)?;
    }
    writeln!(out, "}}\n")?;
    writeln!(
        out,
        "/// Makes a grpcio service of an implementation; each completion queue gets a clone of it. It gets the calls that are"
    )?;
    writeln!(out, "/// let in.")?;
    writeln!(
        out,
        "pub fn create_{}<S: {name} + Send + Clone + 'static>(service: S, calls: &Admit) -> grpcio::Service {{",
        snake(name)
    )?;
    writeln!(out, "    let builder = grpcio::ServiceBuilder::new();\n{adders}    builder.build()\n}}\n")?;
    if name == PASSED_ON {
        writeln!(
            out,
            "/// The same of an implementation that is there at times. Else calls are passed on to where it is."
        )?;
        writeln!(
            out,
            "pub fn create_{}_or_pass<S: {name}, E: crate::codec::Elsewhere>(\n    \
             each: impl Fn() -> Option<S> + Send + Clone + 'static,\n    all: &E,\n    calls: &Admit,\n\
             ) -> grpcio::Service {{",
            snake(name)
        )?;
        writeln!(out, "    let builder = grpcio::ServiceBuilder::new();\n{passers}    builder.build()\n}}\n")?;
    }
    Ok(())
}

/// What adds one method to a service: `answer` does the work of a call that was let in.
fn write_adder(out: &mut String, captured: &str, kind: &str, constant: &str, answer: &str) -> anyhow::Result<()> {
    writeln!(out, "    {captured};")?;
    writeln!(out, "    let builder = builder.add_{kind}_handler(&{constant}_SERVER, move |ctx, requests, sink| {{")?;
    writeln!(out, "        match admit(&ctx) {{")?;
    writeln!(out, "            Ok(permit) => {answer},")?;
    // What is dropped before the status is out cancels the call.
    writeln!(out, "            Err(status) => ctx.spawn(async move {{")?;
    writeln!(out, "                let (_requests, _) = (requests, sink.fail(status).await);\n            }}),")?;
    writeln!(out, "        }}\n    }});")?;
    Ok(())
}
