package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/backstay-dev/backstay"
)

// KeyPair names the files of a certificate (with its chain) and its key, PEM.
type KeyPair struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Certs are the certificates of one listener, read again on Reload. The first
// one that fits a client's server name is used; else the first.
type Certs struct {
	pairs  []KeyPair
	loaded atomic.Pointer[[]tls.Certificate]
}

// LoadCerts reads all pairs; it needs at least one.
func LoadCerts(pairs []KeyPair) (*Certs, error) {
	c := &Certs{pairs: pairs}
	if len(pairs) == 0 {
		return nil, errors.New("no certificate is named")
	}
	return c, c.Reload(time.Now())
}

// Reload reads the files again. When one of them is no good (unreadable, not a
// pair, over) the old ones stay, all of them.
func (c *Certs) Reload(now time.Time) error {
	fresh := make([]tls.Certificate, 0, len(c.pairs))
	for _, p := range c.pairs {
		cert, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		if err == nil && now.After(cert.Leaf.NotAfter) {
			err = fmt.Errorf("it ended on %s", cert.Leaf.NotAfter.Format(time.DateOnly))
		}
		if err != nil {
			return &backstay.Error{Op: "load certificate", Subject: p.Cert, Err: err, Hint: "give a certificate with its chain and its key, both PEM; what was loaded before stays in use"}
		}
		fresh = append(fresh, cert)
	}
	c.loaded.Store(&fresh)
	return nil
}

// config is what a listener speaks TLS by.
func (c *Certs) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			list := *c.loaded.Load()
			for i := range list {
				if hello.SupportsCertificate(&list[i]) == nil {
					return &list[i], nil
				}
			}
			return &list[0], nil
		},
	}
}

// poolOf is the certificates of a PEM file.
func poolOf(pem []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("there is no certificate in it")
	}
	return pool, nil
}
