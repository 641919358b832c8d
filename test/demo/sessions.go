package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud-provider-haproxy/test/lab"
)

// sessions counts something by name: sessions by worker, answers by pod.
type sessions map[string]int

// sessions asks HAProxy on all gateways (show stat, HAProxy Management Guide 9.1) how many sessions each worker of the
// shared pool has had.
func (d *demo) sessions(ctx context.Context) (sessions, error) {
	all := sessions{}
	for _, gateway := range d.lab.Gateways {
		table, err := showStat(ctx, gateway)
		if err != nil {
			return nil, fmt.Errorf("asking HAProxy on %s: %w", gateway.Name, err)
		}
		if err := all.add(table); err != nil {
			return nil, fmt.Errorf("reading what HAProxy on %s said: %w", gateway.Name, err)
		}
	}
	return all, nil
}

func showStat(ctx context.Context, gateway *lab.Host) (string, error) {
	conn, err := gateway.Dial(ctx, "unix", "/run/haproxy/admin.sock")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "show stat\n"); err != nil {
		return "", err
	}
	table, err := io.ReadAll(conn)
	return string(table), err
}

// add adds the servers of backend nodes in a table of show stat: CSV whose header begins with "# ".
func (s sessions) add(table string) error {
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(table, "# "))).ReadAll()
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("it is empty")
	}
	column := func(name string) int { return slices.Index(rows[0], name) }
	backend, server, total := column("pxname"), column("svname"), column("stot")
	for _, row := range rows[1:] {
		if row[backend] != "nodes" || row[server] == "BACKEND" {
			continue
		}
		n, err := strconv.Atoi(row[total])
		if err != nil {
			return err
		}
		s[row[server]] += n
	}
	return nil
}

// since is what came after an earlier count.
func (s sessions) since(before sessions) sessions {
	after := sessions{}
	for name, n := range s {
		after[name] = n - before[name]
	}
	return after
}

// byName is a count for people, in the order of names.
func byName(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
