package prepare

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// firstPerson is the lowest uid of people on all distributions that we know (UID_MIN in login.defs(5)).
const firstPerson = 1000

// checkUser looks at an account that is there already.
func (p *preparer) checkUser() []Finding {
	account, err := p.account()
	if err != nil {
		return []Finding{{Problem: err.Error()}}
	}
	if account == nil {
		return nil
	}
	uid, shell := account[2], account[6]
	if uid == "0" {
		return []Finding{{Problem: fmt.Sprintf("user %s is root, who would be let in with the forced command alone", p.plan.User), Remedy: "give another ssh.user in the cloud configuration"}}
	}
	if n, err := strconv.Atoi(uid); err != nil || n >= firstPerson {
		return []Finding{{Problem: fmt.Sprintf("user %s (uid %s) is somebody's own account, which could do nothing but reach the agent from then on", p.plan.User, uid),
			Remedy: "give another ssh.user in the cloud configuration"}}
	}
	if !p.inItsGroup(account) {
		return []Finding{{Problem: fmt.Sprintf("user %s is not in a group %s, which may read its keys and reach the agent", p.plan.User, p.plan.User),
			Remedy: fmt.Sprintf("groupadd --system --force -- %s && usermod --append --groups %s -- %s", p.plan.User, p.plan.User, p.plan.User)}}
	}
	if strings.HasSuffix(shell, "/nologin") || strings.HasSuffix(shell, "/false") {
		return []Finding{{Problem: fmt.Sprintf("user %s has the shell %s, which runs no forced command", p.plan.User, shell),
			Remedy: "usermod --shell /bin/sh " + p.plan.User}}
	}
	return nil
}

// account is the user's line in /etc/passwd (passwd(5)); nil: there is none.
func (p *preparer) account() ([]string, error) {
	passwd, err := text(p.machine, "/etc/passwd")
	if err != nil {
		return nil, fmt.Errorf("looking for user %s: %w", p.plan.User, err)
	}
	for line := range strings.Lines(passwd) {
		if fields := strings.Split(strings.TrimSpace(line), ":"); len(fields) == 7 && fields[0] == p.plan.User {
			return fields, nil
		}
	}
	return nil, nil
}

// groupsOf are the groups that an account is in (group(5)), its own first.
func (p *preparer) groupsOf(account []string) []string {
	name, gid := account[0], account[3]
	groups, err := text(p.machine, "/etc/group")
	if err != nil {
		return nil
	}
	var primary, further []string
	for line := range strings.Lines(groups) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		switch {
		case len(fields) != 4:
		case fields[2] == gid:
			primary = append(primary, fields[0])
		case slices.Contains(strings.Split(fields[3], ","), name):
			further = append(further, fields[0])
		}
	}
	return append(primary, further...)
}

// inItsGroup says whether an account is in the group of its own name.
func (p *preparer) inItsGroup(account []string) bool {
	return slices.Contains(p.groupsOf(account), account[0])
}
