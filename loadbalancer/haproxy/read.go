package haproxy

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// errMoved says that a reload put another worker behind the socket between two questions.
var errMoved = errors.New("haproxy's worker was replaced while it was asked")

// Read asks for everything that Compare needs. All of it comes from one worker.
func (r *Runtime) Read(ctx context.Context) (*Running, error) {
	const tries = 3
	for try := 1; ; try++ {
		running, err := r.read(ctx)
		if !errors.Is(err, errMoved) || try == tries {
			return running, err
		}
	}
}

// read asks in two connections, because only the first one's answer tells which maps the second one must ask for. Within
// a connection one worker answers.
func (r *Runtime) read(ctx context.Context) (*Running, error) {
	first, err := r.blocks(ctx, "show info", "show map")
	if err != nil {
		return nil, err
	}
	before := &Running{}
	if err := before.parseInfo(first[0]); err != nil {
		return nil, err
	}
	files := mapFiles(first[1])
	commands := []string{"show info", "show servers state", "show stat", "show table " + limitsTable}
	for _, file := range files {
		commands = append(commands, "show map "+file)
	}
	second, err := r.blocks(ctx, commands...)
	if err != nil {
		return nil, err
	}
	running := &Running{Backends: map[string]*RunningBackend{}, Maps: map[string][]Entry{}}
	if err := running.parseInfo(second[0]); err != nil {
		return nil, err
	}
	if running.PID != before.PID {
		return nil, errMoved
	}
	if err := running.parseServers(second[1]); err != nil {
		return nil, err
	}
	if err := running.parseStat(second[2]); err != nil {
		return nil, err
	}
	running.parseLimits(second[3])
	for i, file := range files {
		if running.Maps[file], err = parseMap(second[4+i]); err != nil {
			return nil, fmt.Errorf("reading map %s: %w", file, err)
		}
	}
	return running, nil
}

// blocks asks several questions in one connection and gives each its answer. HAProxy ends each with an empty line, and
// none of these answers has one within.
func (r *Runtime) blocks(ctx context.Context, commands ...string) ([]string, error) {
	line := strings.Join(commands, ";")
	rest, err := r.ask(ctx, line)
	if err != nil {
		return nil, err
	}
	blocks := make([]string, len(commands))
	for i := range blocks {
		if strings.HasPrefix(rest, "\n") {
			rest = rest[1:]
			continue
		}
		block, after, ok := strings.Cut(rest, "\n\n")
		if !ok {
			return nil, &CommandError{line, fmt.Sprintf("%d answers for %d questions, the last one being %q", i, len(blocks), shorten(rest))}
		}
		blocks[i], rest = block, after
	}
	return blocks, nil
}

func (r *Running) parseInfo(block string) error {
	values := map[string]string{}
	for line := range strings.SplitSeq(block, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			values[name] = value
		}
	}
	n := numbers{of: "show info"}
	r.PID = n.int(values["Pid"])
	r.Connections = n.int(values["CurrConns"])
	r.MaxConn = n.int(values["Maxconn"])
	r.Started = time.Unix(int64(n.int(values["Start_time_sec"])), 0)
	r.Version, _, _ = strings.Cut(values["Version"], "-")
	if g := values["description"]; parseGeneration(g) != nil {
		r.Generation = g
	}
	return n.err
}

// mapFiles are the maps that `show map` lists as "ID (FILE) pattern loaded from ...".
func mapFiles(block string) []string {
	var files []string
	for line := range strings.SplitSeq(block, "\n") {
		_, rest, ok := strings.Cut(line, " (")
		file, rest, closed := strings.Cut(rest, ") ")
		if ok && closed && strings.HasPrefix(rest, "pattern loaded from file") && strings.HasPrefix(file, "/") {
			files = append(files, file)
		}
	}
	return files
}

// parseMap reads lines "0xADDRESS KEY VALUE".
func parseMap(block string) ([]Entry, error) {
	if block == "" {
		return nil, nil
	}
	entries := make([]Entry, 0, strings.Count(block, "\n")+1)
	for line := range strings.SplitSeq(block, "\n") {
		ref, rest, _ := strings.Cut(line, " ")
		key, value, ok := strings.Cut(rest, " ")
		if !ok || !strings.HasPrefix(ref, "0x") {
			return nil, fmt.Errorf("haproxy answered %q, which is no map entry", line)
		}
		entries = append(entries, Entry{Key: key, Value: value})
	}
	return entries, nil
}

// Bits of srv_admin_state and srv_check_state (management guide, show servers state; include/haproxy/server-t.h and
// check-t.h of 2.6).
const (
	adminMaint      = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
	adminDrain      = 0x08 | 0x10
	checkConfigured = 0x02
	checkEnabled    = 0x04
)

// parseServers reads `show servers state`.
func (r *Running) parseServers(block string) error {
	_, err := parseServers(block, func(backend string, s RunningServer, _ string) { r.backend(backend).Servers[s.Name] = s })
	return err
}

// parseServers reads `show servers state`, version 1: named columns separated by blanks. head is what stands above the rows.
func parseServers(block string, each func(backend string, s RunningServer, row string)) (head string, err error) {
	const header = "1\n# "
	if !strings.HasPrefix(block, header) {
		return "", &CommandError{"show servers state", shorten(block)}
	}
	names, rows, _ := strings.Cut(block[len(header):], "\n")
	head, column := header+names, columns(strings.Fields(names))
	if rows == "" {
		return head, nil
	}
	for row := range strings.SplitSeq(rows, "\n") {
		values := strings.Fields(row)
		if len(values) != len(column) {
			return "", fmt.Errorf("reading haproxy's servers: %d values for %d columns in %q", len(values), len(column), row)
		}
		server, err := parseServer(func(name string) string { return values[column[name]] })
		if err != nil {
			return "", err
		}
		each(values[column["be_name"]], server, row)
	}
	return head, nil
}

func parseServer(value func(column string) string) (RunningServer, error) {
	n := numbers{of: "show servers state"}
	admin := n.int(value("srv_admin_state"))
	check := n.int(value("srv_check_state"))
	server := RunningServer{
		Name:      value("srv_name"),
		Port:      uint16(n.int(value("srv_port"))),
		CheckPort: uint16(n.int(value("srv_check_port"))),
		Weight:    n.int(value("srv_uweight")),
		stopped:   value("srv_op_state") == "0",
		maint:     admin&adminMaint != 0,
		drain:     admin&adminDrain != 0,
		Checked:   check&checkConfigured != 0,
		Checking:  check&checkEnabled != 0,
	}
	if value("srv_fqdn") == "-" {
		server.Addr, _ = netip.ParseAddr(value("srv_addr"))
	}
	server.State = server.state()
	return server, n.err
}

func (s RunningServer) state() string {
	switch {
	case s.maint:
		return "MAINT"
	case s.drain:
		return "DRAIN"
	case s.stopped:
		return "DOWN"
	case !s.Checked:
		return "NOCHECK"
	}
	return "UP"
}

func (r *Running) backend(name string) *RunningBackend {
	b := r.Backends[name]
	if b == nil {
		b = &RunningBackend{Servers: map[string]RunningServer{}}
		r.Backends[name] = b
	}
	return b
}

// parseStat takes from `show stat` what `show servers state` does not tell: connections, and backends without servers.
func (r *Running) parseStat(block string) error {
	reader := csv.NewReader(strings.NewReader(strings.TrimPrefix(block, "# ")))
	reader.ReuseRecord = true
	reader.FieldsPerRecord = -1 // modules append columns that not every row fills
	head, err := reader.Read()
	if err != nil {
		return fmt.Errorf("reading haproxy's statistics: %w", err)
	}
	column := columns(head)
	for _, name := range []string{"pxname", "svname", "qcur", "scur", "slim", "stot"} {
		if _, ok := column[name]; !ok {
			return fmt.Errorf("reading haproxy's statistics: there is no column %s", name)
		}
	}
	n := numbers{of: "show stat"}
	for {
		row, err := reader.Read()
		if err != nil {
			return errors.Join(n.err, notEOF(err))
		}
		if len(row) <= column["stot"] {
			return fmt.Errorf("reading haproxy's statistics: %q ends before the column stot", row)
		}
		proxy, name := row[column["pxname"]], row[column["svname"]]
		switch name {
		case "FRONTEND":
			if proxy == servicesFrontend {
				r.ServicesMaxConn = n.int(row[column["slim"]])
			}
		case "BACKEND":
			b := r.backend(proxy)
			b.Sessions, b.Queued = n.int(row[column["scur"]]), n.int(row[column["qcur"]])
		default:
			b := r.backend(proxy)
			server, ok := b.Servers[name]
			if !ok {
				continue
			}
			server.Sessions = n.int(row[column["scur"]])
			server.Total = uint64(n.int(row[column["stot"]]))
			if i, ok := column["check_status"]; ok && i < len(row) {
				server.LastCheck = strings.TrimPrefix(row[i], "* ") // a star while the next one runs
			}
			b.Servers[name] = server
		}
	}
}

// columns gives the place of each column by its name.
func columns(head []string) map[string]int {
	column := make(map[string]int, len(head))
	for i, name := range head {
		column[name] = i
	}
	return column
}

// numbers reads numbers and remembers the first that was none.
type numbers struct {
	of  string
	err error
}

func (n *numbers) int(s string) int {
	i, err := strconv.Atoi(s)
	if err != nil && n.err == nil {
		n.err = fmt.Errorf("reading haproxy's answer to %q: %w", n.of, err)
	}
	return i
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("reading haproxy's statistics: %w", err)
}
