package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"loadline.dev/loadline/gateway"
)

// certificate is what --tls-cert and --tls-key name; nil where neither does.
func (s *shell) certificate(log *slog.Logger) (*gateway.Certificate, error) {
	chain, key := s.settings.text("tls-cert"), s.settings.text("tls-key")
	switch {
	case chain == "" && key == "":
		return nil, nil
	case chain == "" || key == "":
		return nil, usage("--tls-cert and --tls-key go together: one is of no use without the other")
	}
	return gateway.OpenCertificate(chain, key, log)
}

// scheme is how the server is addressed.
func (p plan) scheme() string {
	if p.certificate != nil {
		return "https"
	}
	return "http"
}

// encryption is what the gateway encrypts with, nil being nothing. Its end is a
// metric, for it is always forgotten.
func (s *server) encryption() *tls.Config {
	if s.plan.certificate == nil {
		return nil
	}
	s.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "loadline_gateway_certificate_expires_timestamp_seconds", Help: "When the certificate in use ends.",
	}, func() float64 { return float64(s.plan.certificate.Expires().Unix()) }))
	return s.plan.certificate.Config()
}

// trusting is how https servers are reached: with those whom --ca names to vouch
// for them, or with those whom this machine trusts.
func (s *shell) trusting() (http.RoundTripper, error) {
	path := s.settings.text("ca")
	if path == "" {
		return http.DefaultTransport, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("--ca: %v", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, usage("--ca %s holds no certificate in PEM form", path)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

// mistrusted says what helps if err is that client and server do not agree on
// encryption, and else nothing.
func mistrusted(err error) string {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "--ca FILE with the certificate that vouches for the server, or --host with a name that is in its certificate"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "the server speaks plain HTTP: --host http://…"
	}
	return ""
}
