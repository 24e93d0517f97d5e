//! How messages become bytes and back.

use grpcio::{GrpcSlice, Marshaller, MessageReader, Method, MethodType, pb_ser};
use protobuf::{CodedInputStream, Message};

/// A request as the server reads it. Bytes that are no such message reach the service, which refuses them with a clear status;
/// grpcio would answer INTERNAL.
pub type Decoded<T> = Result<T, protobuf::Error>;

/// A method as a client calls it.
pub const fn client_method<Q: Message, P: Message>(ty: MethodType, name: &'static str) -> Method<Q, P> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: pb_ser, de: grpcio::pb_de },
        resp_mar: Marshaller { ser: pb_ser, de: grpcio::pb_de },
    }
}

/// A method as the server offers it.
pub const fn server_method<Q: Message, P: Message>(ty: MethodType, name: &'static str) -> Method<Decoded<Q>, P> {
    Method {
        ty,
        name,
        req_mar: Marshaller { ser: never_sent, de: decode },
        resp_mar: Marshaller { ser: pb_ser, de: grpcio::pb_de },
    }
}

fn decode<T: Message>(mut reader: MessageReader) -> grpcio::Result<Decoded<T>> {
    Ok(T::parse_from(&mut CodedInputStream::from_buf_read(&mut reader)))
}

fn never_sent<T>(_: &Decoded<T>, _: &mut GrpcSlice) -> grpcio::Result<()> {
    Err(grpcio::Error::Codec("a server does not send requests".into()))
}
