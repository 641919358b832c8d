package haproxy

import "strings"

// ParseServers reads the output of Runtime.ServersState, or a file of Local.ServerState: the servers by backend, as far as that
// tells them. It is a small part of what Read asks for.
func ParseServers(state []byte) (map[string]*RunningBackend, error) {
	r := &Running{Backends: map[string]*RunningBackend{}}
	if err := r.parseServers(strings.TrimRight(string(state), "\n")); err != nil {
		return nil, err
	}
	return r.Backends, nil
}

// Inherit leaves, of the output of Runtime.ServersState, what a worker of this Config may take over: HAProxy believes the ports, the
// maintenance and the verdict that it reads about a server's name, whatever its file says about that name now.
func (c *Config) Inherit(state []byte) ([]byte, error) {
	wanted := map[string]Server{}
	for backend, servers := range c.Servers {
		for _, s := range servers {
			wanted[backend+"/"+s.Name] = s
		}
	}
	var kept strings.Builder
	head, err := parseServers(strings.TrimRight(string(state), "\n"), func(backend string, has RunningServer, row string) {
		s, ok := wanted[backend+"/"+has.Name]
		if ok && s.Addr == has.Addr && s.Port == has.Port && s.checkPort() == has.CheckPort && !has.maint && !has.drain {
			kept.WriteString(row + "\n")
		}
	})
	if err != nil {
		return nil, err
	}
	return []byte(head + "\n" + kept.String()), nil
}
