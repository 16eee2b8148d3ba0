package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// writeCert writes a self-signed certificate and its key, and returns it.
func writeCert(t *testing.T, pair KeyPair, name string, until time.Time) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{pair.Cert: {Type: "CERTIFICATE", Bytes: der}, pair.Key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestTLSReload(t *testing.T) {
	t.Parallel()
	side, dir := backend(t, "ok"), t.TempDir()
	pair := KeyPair{filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")}
	day := time.Now().Add(24 * time.Hour)
	roots := x509.NewCertPool()
	first := writeCert(t, pair, "shop.test", day)
	roots.AddCert(first)
	reload := make(chan struct{})
	address := running(t, Config{Listen: []Listen{{Address: "127.0.0.1:0", TLS: []KeyPair{pair}}}, Routes: []wire.Route{one(side.URL)}}, RunOptions{Reload: reload})
	serial := func() *big.Int {
		t.Helper()
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "shop.test", MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "shop.test"
		resp, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
			t.Errorf("got %s over %s, want 200 over HTTP/2", resp.Status, resp.Proto)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber
	}
	if got := serial(); got.Cmp(first.SerialNumber) != 0 {
		t.Fatal("not the first certificate")
	}
	second := writeCert(t, pair, "shop.test", day)
	roots.AddCert(second)
	reload <- struct{}{}
	reload <- struct{}{} // taken: the one before is done
	if got := serial(); got.Cmp(second.SerialNumber) != 0 {
		t.Error("not the second certificate after the reload")
	}
	for name, spoil := range map[string]func(){
		"over":    func() { writeCert(t, pair, "shop.test", time.Now().Add(-time.Hour)) },
		"no cert": func() { _ = os.WriteFile(pair.Cert, []byte("junk"), 0o600) },
		"gone":    func() { _ = os.Remove(pair.Key) },
	} {
		spoil()
		reload <- struct{}{}
		reload <- struct{}{}
		if got := serial(); got.Cmp(second.SerialNumber) != 0 {
			t.Errorf("%s: the good certificate did not stay", name)
		}
	}
	if _, err := LoadCerts([]KeyPair{pair}); err == nil {
		t.Error("a start with files that are no good succeeded")
	}
}

// An instance whose certificate is over, another's, or nobody's is not ready,
// and says why.
func TestBackendTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		cert  string
		until time.Time
		trust bool
		ready bool
	}{
		"good":         {"localhost", time.Now().Add(time.Hour), true, true},
		"over":         {"localhost", time.Now().Add(-time.Hour), true, false},
		"another host": {"other.test", time.Now().Add(time.Hour), true, false},
		"self-signed":  {"localhost", time.Now().Add(time.Hour), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pair := KeyPair{filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")}
			cert := writeCert(t, pair, tt.cert, tt.until)
			loaded, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
			if err != nil {
				t.Fatal(err)
			}
			side := tlsBackend(t, loaded)
			roots := x509.NewCertPool()
			if tt.trust {
				roots.AddCert(cert)
			}
			r := one("https://localhost" + side[len("https://127.0.0.1"):])
			r.Settings.Health.Path = "/"
			p, _ := newProxy(t, Options{Routes: []wire.Route{r}, Roots: roots})
			in := p.Status().Routes[0].Sides[0].Instances[0]
			if in.Ready != tt.ready || in.Ready == (in.Why != "") {
				t.Errorf("ready %v (%s), want %v", in.Ready, in.Why, tt.ready)
			}
		})
	}
}
