package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// alarmed is the key of a script's last signed webhook.
type alarmed struct{}

// alarm posts FILE (several at once, with commas between them) to the receiver that was
// spawned as NAME (with --json) and wants STATUS; the (last) answer is in the file
// "answer". HOW is signed, late, replay (the last signed one once more), unsigned, or
// token. The key is in the file "key", the token in "token". @NOW@ and @EARLIER@ in
// FILE are times, @LARGE@ is a megabyte.
func alarm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: alarm STATUS NAME HOW FILE[,FILE]…")
	}
	url := "http://" + receiver(ts, args[1]) + "/v1/alerts"
	if args[2] == "token" {
		url += "/alertmanager"
	}
	var sending sync.WaitGroup
	answers := make(chan answer, strings.Count(args[3], ",")+1)
	for file := range strings.SplitSeq(args[3], ",") {
		body, headers := alert(ts, args[2], file)
		sending.Go(func() { answers <- post(url, headers, body) })
	}
	sending.Wait()
	close(answers)
	for a := range answers {
		ts.Check(a.err)
		ts.Check(os.WriteFile(ts.MkAbs("answer"), a.body, 0o600))
		if strconv.Itoa(a.status) != args[0] {
			ts.Fatalf("status %d, want %s: %s", a.status, args[0], a.body)
		}
	}
}

// alert is a webhook as it is sent.
func alert(ts *testscript.TestScript, how, file string) ([]byte, http.Header) {
	body, now := []byte(ts.ReadFile(file)), time.Now()
	body = bytes.ReplaceAll(body, []byte("@NOW@"), []byte(now.UTC().Format(time.RFC3339Nano)))
	body = bytes.ReplaceAll(body, []byte("@EARLIER@"), []byte(now.Add(-time.Hour).UTC().Format(time.RFC3339)))
	body = bytes.ReplaceAll(body, []byte("@LARGE@"), bytes.Repeat([]byte("x"), 1<<20))
	last, ok := ts.Value(alarmed{}).(*http.Header)
	if !ok {
		ts.Fatalf("the script has no webhooks")
	}
	headers := http.Header{"Content-Type": {"application/json"}}
	switch how {
	case "replay":
		return body, *last
	case "token":
		headers.Set("Authorization", "Bearer "+strings.TrimSpace(ts.ReadFile("token")))
	case "late":
		sign(headers, strings.TrimSpace(ts.ReadFile("key")), now.Add(-10*time.Minute), body)
	case "signed":
		sign(headers, strings.TrimSpace(ts.ReadFile("key")), now, body)
		*last = headers
	case "unsigned":
	default:
		ts.Fatalf("alarm: how is %q?", how)
	}
	return body, headers
}

// receiver is the address that a spawned receiver says it listens at.
func receiver(ts *testscript.TestScript, name string) string {
	var serving struct {
		Addresses []string `json:"addresses"`
	}
	if err := json.NewDecoder(strings.NewReader(ts.ReadFile(name + ".out"))).Decode(&serving); err != nil || len(serving.Addresses) == 0 {
		ts.Fatalf("%s does not listen: %v", name, err)
	}
	return serving.Addresses[0]
}

// sign signs a webhook as Standard Webhooks says.
func sign(h http.Header, key string, at time.Time, body []byte) {
	id, stamp := fmt.Sprintf("msg_%d", time.Now().UnixNano()), strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(id + "." + stamp + "." + string(body)))
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", stamp)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// answer is what a webhook was answered.
type answer struct {
	status int
	body   []byte
	err    error
}

func post(url string, headers http.Header, body []byte) answer {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body)) //nolint:noctx // the client has its patience
	if err != nil {
		return answer{err: err}
	}
	req.Header = headers.Clone()
	resp, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, text, err}
}
