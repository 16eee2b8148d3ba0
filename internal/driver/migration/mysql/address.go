package mysql

import (
	"errors"
	"net"
	"net/url"
	"strings"
	"time"

	driver "github.com/go-sql-driver/mysql"
)

// config reads a URL. Nothing of it gets into an error.
func config(address string) (*driver.Config, error) {
	bad := errors.New("it is not a URL of MariaDB or MySQL such as mysql://user@host:3306/database")
	var cfg *driver.Config
	rest, isURL := strings.CutPrefix(address, "mariadb://")
	if !isURL {
		rest, isURL = strings.CutPrefix(address, "mysql://")
	}
	switch {
	case isURL && !strings.Contains(rest, "@tcp(") && !strings.Contains(rest, "@unix("):
		u, err := url.Parse("mysql://" + rest)
		if err != nil || u.Hostname() == "" {
			return nil, bad
		}
		cfg = driver.NewConfig()
		cfg.User = u.User.Username()
		cfg.Passwd, _ = u.User.Password()
		cfg.Net, cfg.DBName = "tcp", strings.TrimPrefix(u.Path, "/")
		port := u.Port()
		if port == "" {
			port = "3306"
		}
		cfg.Addr = net.JoinHostPort(u.Hostname(), port)
		if socket := u.Query().Get("socket"); socket != "" {
			cfg.Net, cfg.Addr = "unix", socket
		}
		if tls := u.Query().Get("tls"); tls != "" {
			cfg.TLSConfig = tls
		}
	default:
		parsed, err := driver.ParseDSN(rest)
		if err != nil {
			return nil, bad
		}
		cfg = parsed
	}
	// One statement at a time: what runs is what was judged. No text of a
	// parameter is put into a statement by the client.
	cfg.MultiStatements, cfg.InterpolateParams, cfg.AllowAllFiles = false, false, false
	cfg.ParseTime = false
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	cfg.Logger = &driver.NopLogger{}
	return cfg, nil
}

// Client is what the command line programs are told of a URL.
type Client struct {
	Args     []string // without the database
	Database string
	Password string // for MYSQL_PWD, never for a command line
}

// ClientOf reads a URL for the command line programs.
func ClientOf(address string) (Client, error) {
	cfg, err := config(address)
	if err != nil {
		return Client{}, err
	}
	c := Client{Args: []string{"--user=" + cfg.User}, Database: cfg.DBName, Password: cfg.Passwd}
	if cfg.Net == "unix" {
		c.Args = append(c.Args, "--protocol=socket", "--socket="+cfg.Addr)
	} else {
		host, port, err := net.SplitHostPort(cfg.Addr)
		if err != nil {
			return Client{}, errors.New("its URL names no host and port")
		}
		c.Args = append(c.Args, "--protocol=tcp", "--host="+host, "--port="+port)
	}
	if cfg.TLSConfig != "" && cfg.TLSConfig != "false" {
		c.Args = append(c.Args, "--ssl")
	}
	return c, nil
}

// Through is the URL of another database of the same server, reached at the door
// (host:port), and where that has to lead.
func Through(address, door, name string) (through, network, server string, err error) {
	cfg, err := config(address)
	if err != nil {
		return "", "", "", err
	}
	u := url.URL{Scheme: "mysql", User: url.UserPassword(cfg.User, cfg.Passwd), Host: door, Path: "/" + name}
	if cfg.TLSConfig != "" {
		u.RawQuery = url.Values{"tls": {cfg.TLSConfig}}.Encode()
	}
	return u.String(), cfg.Net, cfg.Addr, nil
}
