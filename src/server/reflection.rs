//! Server reflection: tells tools such as grpcurl what can be called here, and with which messages.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::{SinkExt as _, StreamExt as _};
use grpcio::{DuplexSink, Method, MethodType, RpcContext, RpcStatusCode, Service, ServiceBuilder, WriteFlags};
use protobuf::Message as _;
use protobuf::descriptor::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};
use protobuf::reflect::FileDescriptor;

use super::calls::{Ended, message};
use crate::codec::{Admit, Decoded, Requests, server_method};
use crate::wire::grpc_reflection_v1::reflection as pb;
use crate::wire::grpc_reflection_v1::reflection::server_reflection_request::Message_request as Ask;
use crate::wire::grpc_reflection_v1::reflection::server_reflection_response::Message_response as Answer;
use crate::wire::grpc_reflection_v1::reflection_grpc::{ServerReflection, create_server_reflection};
use crate::wire::{grpc_health_v1, grpc_reflection_v1, grpc_reflection_v1alpha};

type Request = pb::ServerReflectionRequest;
type Response = pb::ServerReflectionResponse;

/// The older version of the service. Its messages are the same but for the name of their package, which is not sent.
const V1ALPHA: Method<Decoded<Request>, Response> =
    server_method(MethodType::Duplex, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");

/// Served by workers that listen, not here.
pub(super) const OF_WORKERS: &str = "Worker";

/// What one port offers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reflection(Arc<Catalog>);

impl Reflection {
    /// For a port that serves what `file` describes, besides health and reflection.
    pub(super) fn of(file: &FileDescriptor) -> Reflection {
        let served = [
            file,
            grpc_health_v1::health::file_descriptor(),
            grpc_reflection_v1::reflection::file_descriptor(),
            grpc_reflection_v1alpha::reflection::file_descriptor(),
        ];
        Reflection(Arc::new(Catalog::of(&served)))
    }

    /// Both versions of the service.
    pub(super) fn services(&self, calls: &Admit) -> [Service; 2] {
        let (mut instance, admit) = (self.clone(), calls.clone());
        let v1alpha = ServiceBuilder::new().add_duplex_streaming_handler(&V1ALPHA, move |ctx, requests, sink| {
            match admit(&ctx) {
                Ok(permit) => instance.server_reflection_info(ctx, Requests::of(requests, permit), sink),
                Err(status) => ctx.spawn(async move {
                    let (_requests, _) = (requests, sink.fail(status).await);
                }),
            }
        });
        [create_server_reflection(self.clone(), calls), v1alpha.build()]
    }
}

impl ServerReflection for Reflection {
    fn server_reflection_info(
        &mut self,
        ctx: RpcContext<'_>,
        mut requests: Requests<Request>,
        mut sink: DuplexSink<Response>,
    ) {
        let catalog = self.0.clone();
        ctx.spawn(async move {
            match converse(&catalog, &mut requests, &mut sink).await {
                Ok(()) => drop(sink.close().await),
                Err(ended) => ended.tell("reflection", |status| sink.fail(status)).await,
            }
        });
    }
}

async fn converse(
    catalog: &Catalog,
    requests: &mut Requests<Request>,
    sink: &mut DuplexSink<Response>,
) -> Result<(), Ended> {
    while let Some(item) = requests.next().await {
        let answer = catalog.answer(message(item)?);
        sink.send((answer, WriteFlags::default())).await?;
    }
    Ok(())
}

/// Why a question has no answer: the other questions of the stream have theirs.
type Unanswered = (RpcStatusCode, String);

/// All that there is to ask for, made once.
#[derive(Default)]
struct Catalog {
    /// By full name, in order.
    services: Vec<String>,
    /// By file name.
    files: BTreeMap<String, File>,
    /// The file of each message, enum, service, and of what is in them, by full name.
    symbols: HashMap<String, String>,
    /// The full names of the messages.
    messages: Vec<String>,
}

struct File {
    /// The `FileDescriptorProto`.
    bytes: Vec<u8>,
    imports: Vec<String>,
}

impl Catalog {
    /// Whatever services these files describe are served.
    fn of(served: &[&FileDescriptor]) -> Catalog {
        let mut catalog = Catalog::default();
        for file in served {
            let package = file.package();
            let served = file.services().filter(|service| service.proto().name() != OF_WORKERS);
            catalog.services.extend(served.map(|service| within(package, service.proto().name())));
            catalog.add(file);
        }
        catalog.services.sort_unstable();
        catalog
    }

    /// A file, and what it imports.
    fn add(&mut self, file: &FileDescriptor) {
        let proto = file.proto();
        if self.files.contains_key(proto.name()) {
            return;
        }
        let imports = proto.dependency.clone();
        // Writing fails only where required fields are missing, and descriptors have none.
        let bytes = proto.write_to_bytes().unwrap_or_default();
        self.files.insert(proto.name().to_owned(), File { bytes, imports });
        self.note_symbols(proto);
        file.deps().iter().for_each(|import| self.add(import));
    }

    fn note_symbols(&mut self, file: &FileDescriptorProto) {
        let mut symbols = Vec::new();
        for message in &file.message_type {
            self.note_message(file.package(), message, &mut symbols);
        }
        for an_enum in &file.enum_type {
            note_enum(file.package(), an_enum, &mut symbols);
        }
        for service in &file.service {
            let name = within(file.package(), service.name());
            symbols.extend(service.method.iter().map(|method| within(&name, method.name())));
            symbols.push(name);
        }
        self.symbols.extend(symbols.into_iter().map(|symbol| (symbol, file.name().to_owned())));
    }

    fn note_message(&mut self, scope: &str, message: &DescriptorProto, symbols: &mut Vec<String>) {
        let name = within(scope, message.name());
        symbols.extend(message.field.iter().map(|field| within(&name, field.name())));
        symbols.extend(message.oneof_decl.iter().map(|oneof| within(&name, oneof.name())));
        for nested in &message.nested_type {
            self.note_message(&name, nested, symbols);
        }
        for an_enum in &message.enum_type {
            note_enum(&name, an_enum, symbols);
        }
        self.messages.push(name.clone());
        symbols.push(name);
    }

    fn answer(&self, request: Request) -> Response {
        let answer = match &request.message_request {
            Some(Ask::FileByFilename(name)) => self.file(name),
            Some(Ask::FileContainingSymbol(symbol)) => self.file_of(symbol),
            Some(Ask::FileContainingExtension(extension)) => {
                let (of, number) = (&extension.containing_type, extension.extension_number);
                self.extensions_of(of).and_then(|_| Err(not_found(format!("{of} has no extension {number}"))))
            }
            Some(Ask::AllExtensionNumbersOfType(name)) => self.extensions_of(name),
            Some(Ask::ListServices(_)) => Ok(self.list()),
            _ => Err((RpcStatusCode::INVALID_ARGUMENT, "the request asks for nothing that is known here".into())),
        };
        let answer = answer.unwrap_or_else(|(code, error_message)| {
            let error_code = code.into();
            Answer::ErrorResponse(pb::ErrorResponse { error_code, error_message, ..pb::ErrorResponse::default() })
        });
        Response {
            valid_host: request.host.clone(),
            original_request: Some(request).into(),
            message_response: Some(answer),
            ..Response::default()
        }
    }

    fn list(&self) -> Answer {
        let service = |name: &String| pb::ServiceResponse { name: name.clone(), ..pb::ServiceResponse::default() };
        Answer::ListServicesResponse(pb::ListServiceResponse {
            service: self.services.iter().map(service).collect(),
            ..pb::ListServiceResponse::default()
        })
    }

    fn file_of(&self, symbol: &str) -> Result<Answer, Unanswered> {
        let file = self.symbols.get(symbol).ok_or_else(|| not_found(format!("nothing here is called {symbol}")))?;
        self.file(file)
    }

    /// A file and all that it imports, itself first.
    fn file(&self, name: &str) -> Result<Answer, Unanswered> {
        let (mut wanted, mut next) = (vec![name], 0);
        let mut files = Vec::new();
        while let Some(&name) = wanted.get(next) {
            let file = self.files.get(name).ok_or_else(|| not_found(format!("there is no file {name} here")))?;
            files.push(file.bytes.clone());
            for import in &file.imports {
                if !wanted.contains(&import.as_str()) {
                    wanted.push(import);
                }
            }
            next += 1;
        }
        Ok(Answer::FileDescriptorResponse(pb::FileDescriptorResponse {
            file_descriptor_proto: files,
            ..pb::FileDescriptorResponse::default()
        }))
    }

    /// Proto3 has no extensions, so a message that is known has none.
    fn extensions_of(&self, message: &str) -> Result<Answer, Unanswered> {
        if !self.messages.iter().any(|name| name == message) {
            return Err(not_found(format!("no message here is called {message}")));
        }
        Ok(Answer::AllExtensionNumbersResponse(pb::ExtensionNumberResponse {
            base_type_name: message.to_owned(),
            ..pb::ExtensionNumberResponse::default()
        }))
    }
}

/// The values of an enum are beside it, not in it.
fn note_enum(scope: &str, an_enum: &EnumDescriptorProto, symbols: &mut Vec<String>) {
    symbols.push(within(scope, an_enum.name()));
    symbols.extend(an_enum.value.iter().map(|value| within(scope, value.name())));
}

fn within(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

fn not_found(what: String) -> Unanswered {
    (RpcStatusCode::NOT_FOUND, what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wire::{contact, google_rpc};

    fn files(answer: Result<Answer, Unanswered>) -> Vec<String> {
        match answer.unwrap() {
            Answer::FileDescriptorResponse(response) => response
                .file_descriptor_proto
                .iter()
                .map(|bytes| FileDescriptorProto::parse_from_bytes(bytes).unwrap().name().to_owned())
                .collect(),
            other => panic!("no files: {other:?}"),
        }
    }

    #[test]
    fn a_file_comes_with_what_it_imports() {
        let catalog = Catalog::of(&[google_rpc::status::file_descriptor()]);
        assert_eq!(
            files(catalog.file("google/rpc/status.proto")),
            ["google/rpc/status.proto", "google/protobuf/any.proto"]
        );
        assert_eq!(files(catalog.file_of("google.protobuf.Any.type_url")), ["google/protobuf/any.proto"]);
    }

    #[test]
    fn whatever_has_a_name_is_found_by_it() {
        let catalog = Catalog::of(&[contact::file_descriptor(), grpc_health_v1::health::file_descriptor()]);
        let names = ["Contact", "Contact.getTask", "ServerMsg", "ServerMsg.batch", "Outcome", "RETRY"];
        for name in names {
            assert_eq!(files(catalog.file_of(name)), ["contact.proto"], "{name}");
        }
        let nested = "grpc.health.v1.HealthCheckResponse.ServingStatus";
        assert_eq!(files(catalog.file_of(nested)), ["grpc/health/v1/health.proto"]);
        assert_eq!(catalog.file_of("Contact.noSuchThing").unwrap_err().0, RpcStatusCode::NOT_FOUND);
    }
}
