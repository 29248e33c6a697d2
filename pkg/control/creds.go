package control

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// refusing are the credentials of the client port. etcd's own refuse in silence there: only its other listeners tell.
type refusing struct {
	credentials.TransportCredentials
	log      *slog.Logger
	onRefuse func(port string, err error)
}

// Clone implements credentials.TransportCredentials.
func (r refusing) Clone() credentials.TransportCredentials {
	r.TransportCredentials = r.TransportCredentials.Clone()
	return r
}

// ServerHandshake implements credentials.TransportCredentials.
func (r refusing) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := r.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		r.log.Warn("rejected connection on client endpoint", "part", "etcd", "remote-addr", raw.RemoteAddr(), "err", err)
		if r.onRefuse != nil {
			r.onRefuse("control_client", err)
		}
	}
	return conn, info, err
}

// clientPort are the gRPC options of the client port: the same certificates and rules as etcd's own, and a word about each refusal.
func (s *Server) clientPort(info transport.TLSInfo) ([]grpc.ServerOption, error) {
	if s.o.CertFile == "" {
		return nil, nil
	}
	conf, err := info.ServerConfig()
	if err != nil {
		return nil, err
	}
	conf.NextProtos = []string{"h2"}
	return []grpc.ServerOption{grpc.Creds(refusing{credentials.NewTLS(conf), s.o.Logger, s.o.OnRefuse})}, nil
}

// dialing are the credentials of a client whose files may change while it lives: each connection is made with what they hold then.
type dialing struct {
	credentials.TransportCredentials
	conf func() (*tls.Config, error)
}

// Clone implements credentials.TransportCredentials.
func (d dialing) Clone() credentials.TransportCredentials {
	d.TransportCredentials = d.TransportCredentials.Clone()
	return d
}

// ClientHandshake implements credentials.TransportCredentials.
func (d dialing) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conf, err := d.conf()
	if err != nil {
		return nil, nil, err
	}
	if conf.ServerName != "" {
		authority = conf.ServerName
	}
	return credentials.NewTLS(conf).ClientHandshake(ctx, authority, raw)
}

// authenticate puts the present password into the question for a token: etcd's client would say for ever what it was told first.
func (d Dial) authenticate(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if a, ok := req.(*pb.AuthenticateRequest); ok {
		password, err := d.Password()
		if err != nil {
			return err
		}
		req = &pb.AuthenticateRequest{Name: a.GetName(), Password: password}
	}
	return next(ctx, method, req, reply, cc, opts...)
}
