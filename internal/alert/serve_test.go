package alert

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve runs a server until the test ends, and returns its address.
func serve(t *testing.T, s Server) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	address, ended := make(chan string, 1), make(chan error, 1)
	s.Listen, s.Log = []string{"127.0.0.1:0"}, slog.New(slog.DiscardHandler)
	s.Serving = func(a []string) { address <- a[0] }
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	select {
	case a := <-address:
		return a
	case err := <-ended:
		t.Fatalf("serve: %v", err)
	}
	return ""
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Who sends slowly is cut off, in the head of a request and in its body.
func TestSlowSenders(t *testing.T) {
	t.Parallel()
	address := serve(t, Server{Handler: newDesk(t).Handler, head: 100 * time.Millisecond, read: 200 * time.Millisecond})
	for name, begin := range map[string]string{
		"in the head": "POST /v1/alerts HTTP/1.1\r\nHost: x\r\n",
		"in the body": "POST /v1/alerts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{",
	} {
		conn := dial(t, address)
		if _, err := io.WriteString(conn, begin); err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		go func() { // a byte at a time
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					if _, err := io.WriteString(conn, "x"); err != nil {
						return
					}
				case <-stop:
					return
				}
			}
		}()
		began := time.Now()
		if _, err := io.Copy(io.Discard, bufio.NewReader(conn)); time.Since(began) > 5*time.Second {
			t.Errorf("%s: it was listened to for %s (%v)", name, time.Since(began), err)
		}
		close(stop)
	}
}

// One address has so many connections, and no more; a closed one makes room.
func TestConnectionsOfOneAddress(t *testing.T) {
	t.Parallel()
	address := serve(t, Server{Handler: newDesk(t).Handler})
	ask := func(conn net.Conn) error {
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	var open []net.Conn
	for range mostFromOne {
		conn := dial(t, address)
		if err := ask(conn); err != nil {
			t.Fatalf("connection %d: %v", len(open), err)
		}
		open = append(open, conn)
	}
	if err := ask(dial(t, address)); err == nil {
		t.Fatal("one more is served")
	}
	_ = open[0].Close()
	for deadline := time.Now().Add(10 * time.Second); ask(dial(t, address)) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("a closed connection makes no room")
		}
	}
}

// A certificate that is replaced counts for the next connection.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := writePair(t, cert, key, 1)
	address := serve(t, Server{Handler: newDesk(t).Handler, Cert: cert, Key: key})
	get := func(root *x509.Certificate) error {
		pool := x509.NewCertPool()
		pool.AddCert(root)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}}
		resp, err := client.Get(fmt.Sprintf("https://%s/healthz", address))
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	if err := get(first); err != nil {
		t.Fatal(err)
	}
	second := writePair(t, cert, key, 2)
	if err := get(second); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
	if err := get(first); err == nil {
		t.Error("the old certificate is still served")
	}
	err := Server{Cert: key, Key: cert, Log: slog.New(slog.DiscardHandler)}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "certificate refused") {
		t.Errorf("a pair the wrong way round: %v", err)
	}
}

// writePair writes a certificate of 127.0.0.1 and its key.
func writePair(t *testing.T, certFile, keyFile string, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
