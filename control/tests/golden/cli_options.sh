#!/bin/bash
# Options of ipvsadm, their combinations and their mistakes. To be run as root
# with ipvsadm 1.31 and an empty IPVS; what it prints is cli_options.txt.
printf '%s\n' '10.9.9.1 www.example.test' '10.9.9.2 rs1.example.test' '10.9.9.3 both.example.test' \
  '2001:db8::77 six.example.test' '2001:db8::78 both.example.test' \
  '10.9.9.4 averyveryveryverylongname.of.a.server.example.test' >>/etc/hosts
# Command, standard output, standard error after "E: ", exit status.
x() {
  printf '$ %s\n' "$1"
  bash -c "$1" >/tmp/x.out 2>/tmp/x.err <"${2:-/dev/null}"
  local status=$?
  cat /tmp/x.out
  sed 's/^/E: /' /tmp/x.err
  echo "=> $status"
}
# The same with standard input from here, which is printed after "< ".
xi() {
  cat >/tmp/x.in
  printf '$ %s\n' "$1"
  sed 's/^/< /' /tmp/x.in
  bash -c "$1" >/tmp/x.out 2>/tmp/x.err </tmp/x.in
  local status=$?
  cat /tmp/x.out
  sed 's/^/E: /' /tmp/x.err
  echo "=> $status"
}
each() { while IFS= read -r line; do [ -z "$line" ] || x "ipvsadm $line"; done; }
sec() { printf '\n## %s\n' "$*"; }

sec words
each <<'W'
-A -t=10.0.0.1:80 -s rr
-A -t10.0.0.2:80 -srr
-At 10.0.0.3:80 -s=rr
--add-service --tcp-service=10.0.0.4:80 --scheduler=rr
--add-service --tcp-service 10.0.0.5:80 --scheduler rr
--add-serv --tcp-service 10.0.0.6:80
-add-service --tcp-service 10.0.0.6:80
-A -t 10.0.0.7:80 -p50
-A -t 10.0.0.8:80 -p=50
-A -t 10.0.0.9:80 -p 50
-A -t 10.0.0.10:80 --persistent=50
-A -t 10.0.0.11:80 --persistent 50
-A -t 10.0.0.12:80 -p -s rr
-A -p -t 10.0.0.13:80 -s rr
-A -t 10.0.0.14:80 --persistent --scheduler rr
-A -t 10.0.0.15:80 --persistent=
-A -t 10.0.0.16:80 -p ''
-A -t 10.0.0.17:80 -p -1
-Ln
-C
-A -t 10.0.0.1:80
-Lntc
-L -nX
-nL
-n
-
--
-- -L
-L --
-L -- -n
-L - -n
extra
extra -L
-L extra -n more
-L --stats=foo
-L -n=5
-A --tcp-service
-A --tcp-service= -s rr
-A -t 10.0.0.1:81 -s
-A -t 10.0.0.1:81 --scheduler
-A -t -s rr
-A -t 10.0.0.1:81 -s -p
-A -t 10.0.0.1:81 -p -p
-L -zzz
-L -nzc
-L --nosuch
-L --nosuch=4
-L -nosuch
-L -?
-?
-L -h
-L -v
-L --help
-v
-v -L
-Lv
-R extra
-S extra
-C extra
''
-L ''
-A -t '' -s rr
-A -t 10.0.0.3:80 -s '' -p ''
-A -s '' -t 10.0.0.3:80
-A -t 10.0.0.4:80 -b '' -p 5
-A -t 10.0.0.5:80 --pe '' -p 5
-I
-X
--list --numeric
--list --connection --numeric
--save --numeric
--flush
-l
--clear
--zero
--start-daemon
--stop-daemon
--set
--set 1
--set 1 2 3 4
--set=1 2 3
--set 1 2 -n 3
--set 1 x 3
--set 1 2 x
--set 1 2 -3
--set 2678400 2 3
--set 2678401 2 3
--set 2147483648 2 3
--set ' 10' +20 030
-L --timeout -n
W

sec numbers
x 'ipvsadm -A -t 10.0.0.1:80'
for w in 0 65535 2147483647 2147483648 4294967296 99999999999999999999 ' 5' '5 ' +5 0x5 05 '' 5x; do
  x "ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.1:80 -m -w '$w'"
  x "ipvsadm -Ln"
  x "ipvsadm -d -t 10.0.0.1:80 -r 10.1.0.1:80"
done
for w in 0 1 2147483647 2147483648 -1 x ''; do
  x "ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.1:80 -m -x '$w'"
  x "ipvsadm -d -t 10.0.0.1:80 -r 10.1.0.1:80"
  x "ipvsadm -a -t 10.0.0.1:80 -r 10.1.0.1:80 -m -x 2147483647 -y '$w'"
  x "ipvsadm -Ln --thresholds"
  x "ipvsadm -d -t 10.0.0.1:80 -r 10.1.0.1:80"
done
for m in 0 1 07 +7 ' 7' '7 ' 0x7 -1 -4294967295 4294967295 4294967296 ''; do
  x "ipvsadm -A -f '$m'"
  x "ipvsadm -D -f '$m'"
done
for p in 0 1 65535 65536 -1 http HTTP ' 80' +80 080 0x50 '' nosuch 80x '80 ' domain; do
  x "ipvsadm -A -t '10.0.7.1:$p' -s rr"
  x "ipvsadm -A -u '10.0.7.1:$p' -s rr"
done
x 'ipvsadm -Sn'
x 'ipvsadm -C'

sec addresses
x 'ipvsadm -A -t 10.0.0.1:80'
for a in 10.1 10 010.1.1.1 0x0a.1.1.1 10.0.0.1. 1.2.3.4.5 256.1.1.1 '*' any 224.0.0.1 255.255.255.255 127.0.0.1 0.0.0.0 ::1 '[::1]' '[::]' '::' fe80::1 '[fe80::1]' '[ff02::1]' '[::ffff:1.2.3.4]' '[fe80::1%lo]' both.example.test six.example.test '[six.example.test]' '[1.2.3.4]' '[::1' '::1]' ':' '' 'a:b:c'; do
  x "ipvsadm -A -t '$a:80' -s rr"
  x "ipvsadm -A -t '$a' -s rr"
done
x 'ipvsadm -Sn'
x 'ipvsadm -L'
x 'ipvsadm -C'
x 'ipvsadm -A -t 10.0.0.1:80'
x 'ipvsadm -A -t [2001:db8::1]:80'
for a in 10.1 0.0.0.0 224.0.0.1 255.255.255.255 127.0.0.1 '[::1]' '[::]' '[fe80::1]' '[ff02::1]' '[::ffff:1.2.3.4]' both.example.test six.example.test ''; do
  x "ipvsadm -a -t 10.0.0.1:80 -r '$a:80' -m"
  x "ipvsadm -a -t [2001:db8::1]:80 -r '$a:80' -m"
  x "ipvsadm -a -t 10.0.0.1:80 -r '$a' -i"
  x "ipvsadm -a -t [2001:db8::1]:80 -r '$a' -i"
done
x 'ipvsadm -Sn'
x 'ipvsadm -C'

sec services
each <<'S'
-A -6 -f 5
-A -6 -t 10.0.0.1:80
-A -t 10.0.0.1:80 -6
-A -f 6 -6 -M 64
-A -f 7 -M 64 -6
-A -M 64 -f 7 -6 -p
-A -M 255.255.0.0 -t 10.0.0.2:80 -p 5
-A -M 255.255.0.0 -t [2001:db8::1]:81 -p 5
-A -M 64 -t [2001:db8::1]:80 -p 5
-A -t 10.0.0.3:80 -p 5 -M 24
-A -t 10.0.0.4:80 -p 5 -M 255.255.255.255
-A -t [2001:db8::1]:82 -p 5 -M 128
-A -t [2001:db8::1]:83 -p 5 -M abc
-A -t [2001:db8::1]:84 -p 5 -M 64abc
-A -s sh -b sh-port -t 10.0.0.5:80
-A -b sh-port -s sh -t 10.0.0.6:80
-A -b sh-port -t 10.0.0.7:80
-A -b mh-port -s sh -t 10.0.0.8:80
-A -s sh -b mh-port -t 10.0.0.8:80
-A -s mh -b sh-port -t 10.0.0.9:80
-A -s rr -b sh-port -t 10.0.0.10:80
-A -s sh -b flag-1 -t 10.0.0.11:80
-A -s sh -b sh-port, -t 10.0.0.12:80
-A -s sh -b '' -t 10.0.0.13:80
-A -s sh -b sh-port,,sh-fallback -t 10.0.0.14:80
-A -s sh -b sh-port,bad -t 10.0.0.15:80
-A -s sh -b flag-3,flag-1 -t 10.0.0.16:80
-A -s sh -b flag-3 -t 10.0.0.17:80
-A -s mh -b flag-2,flag-3 -t 10.0.0.18:80
-A -s wrr -b flag-2,flag-3 -t 10.0.0.19:80
-A -s wrr -b sh-port,mh-port,flag-3 -t 10.0.0.20:80
-A -t 10.0.0.21:80 -o
-A -t 10.0.0.21:0 -o
-A -f 18 -o
-A -u 10.0.0.21:80 -o -p
-A --sctp-service 10.0.0.21:80 -o
-A -t 10.0.0.22:80 --pe sip
-A -u 10.0.0.22:80 --pe sip -p -M 255.255.255.0
-A -u 10.0.0.23:80 --pe averyveryverylongname -p
-A -u 10.0.0.23:80 --pe nosuch
-A -u 10.0.0.24:80 -s rrrrrrrrrrrrrrrr
-A -f 0 -t 10.0.0.25:80
-A -f 25 -t 10.0.0.25:80
-A -u 10.0.0.26:80 -s sh -b sh-port -p 5 -M 255.255.255.0 --pe sip -o
-A -f 5 -6 -s mh -b mh-port -p 5 -M 64 -o --pe sip
-Ln
-Sn
-Ln --stats
-E -u 10.0.0.26:80 -s sh -b sh-port -M 255.255.255.0 --pe sip -o
-E -t 10.0.0.2:80 -s rr -p -o
-E -u 10.0.0.99:80 -s nosuch
-A -t 10.0.0.2:80 -s nosuch
-E -u 10.0.0.99:80 --pe nosuch
-Ln
-D -f 6
-D -f 6 -6
-C
S

sec servers
each <<'S'
-A -t 10.0.0.1:80
-A -t [2001:db8::1]:80
-A -f 6 -6
-a -r 10.1.0.1 -t 10.0.0.1:80
-a -r 10.1.0.1 -t 10.0.0.1:80 -m
-a -r 10.1.0.2:8080 -t 10.0.0.1:80 -m
-a -r both.example.test:80 -t [2001:db8::1]:80 -m
-a -t [2001:db8::1]:80 -r both.example.test:81 -m
-a -t 10.0.0.1:80 -r both.example.test:82 -m
-a -t 10.0.0.1:80 -r averyveryveryverylongname.of.a.server.example.test:http -m
-a -f 6 -6 -r both.example.test:80 -m
-a -f 6 -r [2001:db8::9]:80 -m
-a -r [2001:db8::9]:80 -f 6 -6 -m
-a -f 6 -6 -r 10.1.0.4:80 -m
-a -t 10.0.0.1:80 -r 10.1.0.1 -m -y 5
-a -t 10.0.0.99:80 -r 10.1.0.1 -m -y 5
-e -t 10.0.0.1:80 -r 10.1.0.99 -m -y 5
-e -t 10.0.0.1:80 -r 10.1.0.1 -m -y 5
-a -t 10.0.0.1:80 -r 10.1.0.50:80 -m --tun-type gue --tun-port 6080
-a -t 10.0.0.1:80 -r 10.1.0.51:80 -m --tun-type gue
-a -t 10.0.0.1:80 -r 10.1.0.52:80 -i --tun-port 6080
-a -t 10.0.0.1:80 -r 10.1.0.53:80 -i --tun-port 0 --tun-type gue
-a -t 10.0.0.1:80 -r 10.1.0.53:80 -i --tun-port 65536 --tun-type gue
-a -t 10.0.0.1:80 -r 10.1.0.53:80 -i --tun-port 65535 --tun-type gue --tun-csum
-a -t 10.0.0.1:80 -r 10.1.0.54:80 -i --tun-type gue --tun-port 1 --tun-csum --tun-remcsum
-a -t 10.0.0.1:80 -r 10.1.0.55:80 -i --tun-type gre --tun-csum --tun-nocsum
-a -t 10.0.0.1:80 -r 10.1.0.56:80 -i --tun-type gre --tun-remcsum
-a -t 10.0.0.1:80 -r 10.1.0.57:80 -i --tun-type gre --tun-port 5
-a -t 10.0.0.1:80 -r 10.1.0.58:80 -i --tun-csum
-a -t 10.0.0.1:80 -r 10.1.0.59:80 -i --tun-type ipip --tun-csum
-a -t 10.0.0.1:80 -r 10.1.0.60:80 --tun-type gre
-a -t 10.0.0.1:80 -r 10.1.0.61:80 -i --tun-type gue --tun-port x
-a -t 10.0.0.1:80 -r 10.1.0.62:80 -i --tun-type gue --tun-nocsum
-a -t 10.0.0.6:80 -r [2001:db8::1]:80 --tun-type gre
-a -t 10.0.0.6:80 -m --tun-type gre
-a -t 10.0.0.6:80 -r 10.1.0.1 -i --tun-type gue --tun-csum --tun-nocsum
-a -t 10.0.0.6:80 -r 10.1.0.1 -i --tun-type gue --tun-csum --tun-remcsum --tun-nocsum --tun-port 1
-a -t 10.0.0.6:80 -r 10.1.0.1 -i --tun-type ipip --tun-csum --tun-remcsum --tun-nocsum --tun-port 1
-a -t 10.0.0.6:80 -r 10.1.0.1 --tun-csum
-a -t 10.0.0.6:80 -r 10.1.0.1 --tun-type ipip
-d -t 10.0.0.6:80 -r 10.1.0.1 --tun-type ipip
-e -t 10.0.0.6:80 -r 10.1.0.1:80 --tun-type gre -m
-e -t 10.0.0.1:80 -r 10.1.0.2:8080 -g
-e -t 10.0.0.1:80 -r 10.1.0.1:0 -i
-e -t 10.0.0.1:80 -r 10.1.0.53:80 -i
-Ln --tun-info
-Sn
-S
-d -t 10.0.0.1:80 -r 10.1.0.53
-d -t 10.0.0.1:80 -r 10.1.0.1:8080
-d -t 10.0.0.1:80 -r 10.1.0.1:80 -m
-Ln --rate --thresholds
-Ln --thresholds --persistent-conn
-Ln --stats --persistent-conn
-Ln --stats --tun-info
-Ln --tun-info --thresholds
-Ln --tun-info --persistent-conn
-Ln --tun-info --rate
-L
-L --stats
-L --thresholds
-L --persistent-conn
-L --tun-info
-L -t 10.0.0.1:80
-Ln -t 10.0.0.1:80 --stats
-Ln -t 10.0.0.1:80 --rate
-Ln -t 10.0.0.1:80 --nosort
-Ln -t 10.0.0.1
-Ln -f 99
-Z -f 99
-Z -t 10.0.0.99:80
-C
S

sec repeated options
each <<'R'
-L -L
-L -n -n
-L --numeric -n
-L -c -c
-L --stats --stats
-L --sort --sort
-L --nosort --nosort
-A -t 10.0.0.6:80 -s rr -s rr
-A -t 10.0.0.6:80 -M 1 -M 1
-A -t 10.0.0.6:80 -o -o
-A -t 10.0.0.6:80 -b sh-port -b sh-port
-A -t 10.0.0.6:80 --pe sip --pe sip
-a -t 10.0.0.6:80 -r 10.1.0.1 -r 10.1.0.1
-a -t 10.0.0.6:80 -r 10.1.0.1 -m -m
-a -t 10.0.0.6:80 -r 10.1.0.1 -w 1 -w 1
-a -t 10.0.0.6:80 -r 10.1.0.1 -x 1 -x 1
-a -t 10.0.0.6:80 -r 10.1.0.1 -y 1 -y 1
-a -t 10.0.0.6:80 -r 10.1.0.1 --tun-type ipip --tun-type ipip
-a -t 10.0.0.6:80 -r 10.1.0.1 --tun-port 1 --tun-port 1
-a -t 10.0.0.6:80 -r 10.1.0.1 --tun-csum --tun-csum
-a -t 10.0.0.6:80 -r 10.1.0.1 --tun-nocsum --tun-nocsum
-a -t 10.0.0.6:80 -r 10.1.0.1 --tun-remcsum --tun-remcsum
--start-daemon master --syncid 1 --syncid 1
--start-daemon master --mcast-interface lo --mcast-interface lo
--start-daemon master --sync-maxlen 1 --sync-maxlen 1
--start-daemon master --mcast-group 224.0.0.1 --mcast-group 224.0.0.1
--start-daemon master --mcast-port 1 --mcast-port 1
--start-daemon master --mcast-ttl 1 --mcast-ttl 1
-L --exact --exact
-L --rate --rate
-L --thresholds --thresholds
-L --persistent-conn --persistent-conn
-L --tun-info --tun-info
-L --timeout --timeout
-L --daemon --daemon
-A -t 10.0.0.6:80 -s rr -b sh-port -n
-A -t 10.0.0.6 -s rr -b sh-port
-A -t 10.0.0.6 -s rr -b nonsense
-A -s rr -b sh-port
-L -b sh-port
-L -b nonsense
-L -b flag-1
-L -w x
-A -t 10.0.0.6:80 extra -n
-A -t 10.0.0.6:80 extra -b nonsense
--set x 2 3 4
--set 1 2 3 -n
--start-daemon bogus -n
--start-daemon master -r 10.0.0.1
--start-daemon master --mcast-interface lo --sync-maxlen 0
--start-daemon master --mcast-interface lo --sync-maxlen 65508
--start-daemon master --mcast-interface lo --sync-maxlen x
--start-daemon master --mcast-interface lo --mcast-port 0
--start-daemon master --mcast-interface lo --mcast-port 65536
--start-daemon master --mcast-interface lo --mcast-ttl 0
--start-daemon master --mcast-interface lo --mcast-ttl 256
--start-daemon master --mcast-interface lo --mcast-group x
--start-daemon master --mcast-interface lo --mcast-group 2001:db8::1
--start-daemon master --mcast-interface lo --mcast-group ''
R

sec restore
xi 'ipvsadm -R' <<'R'
-A -t 10.0.1.1:80 -s rr
-A -t 10.0.1.1:80 -s rr
R
xi 'ipvsadm -R' <<'R'
  -A   -t	10.0.1.2:80    -s rr  
-A -t 10.0.1.3:80 -s rr # comment
-A -t 10.0.1.4:80 -s rr
R
xi 'ipvsadm -R' <<'R'
# comment
-A -t 10.0.1.6:80 -s rr
R
xi 'ipvsadm -R' <<'R'
-A -t 10.0.1.7:80 -s rr

   
-A -t 10.0.1.8:80 -s rr
R
xi 'ipvsadm -R' <<'R'
-A -t "10.0.1.10:80" -s 'rr'
-A -t 10.0.1.11:80 -s rr
R
xi 'ipvsadm -R' <<'R'
ipvsadm -A -t 10.0.1.12:80 -s rr
-A -t 10.0.1.13:80 -s rr
R
xi 'ipvsadm -R' <<'R'
-L -n
-S -n
-R
-A -t 10.0.1.14:80 -s rr
R
xi 'ipvsadm -R' <<'R'
-v
-A -t 10.0.1.15:80 -s rr
R
xi 'ipvsadm -R' <<'R'
-L -n -t 10.99.99.99:80
-A -t 10.0.1.16:80 -s rr
R
xi 'ipvsadm -R' <<'R'
-A -t 10.0.1.17:80 -s rr -O
-A -t 10.0.1.18:80 -s rr
R
xi 'ipvsadm -R' <<'R'
-A -t 10.0.1.19:80 -s rr -O
R
xi 'ipvsadm -R' <<'R'
-A -t 10.0.1.20:80 -s rr -r 1.2.3.4
-A -t 10.0.1.21:80 -s rr
R
xi 'ipvsadm -R' <<'R'
--add-service --tcp-service=10.0.1.22:80 -s rr
-Z
-D -t 10.0.1.99:80
-Z
R
xi 'ipvsadm -R' </dev/null
xi 'ipvsadm-restore -x' <<'R'
-A -t 10.0.1.23:80 -s rr
R
x 'ipvsadm -Sn'
x 'ipvsadm-save'
x 'ipvsadm-save -n'
x 'ipvsadm-save -x'
x 'ipvsadm-save extra'
x 'ipvsadm-save -h'
x 'ipvsadm -C'

sec which options go with which command
x 'ipvsadm -A -t 10.0.0.1:80'
OPTIONS=("-n" "-c" "-s rr" "-p" "-M 255.255.255.0" "-r 10.1.0.1:80" "-m" "-w 1" "-x 1" "-y 1" "--mcast-interface lo" "--timeout" "--daemon" "--stats" "--rate" "--thresholds" "--persistent-conn" "--nosort" "--sort" "--syncid 1" "--exact" "-o" "--pe sip" "-b flag-1" "--sync-maxlen 1000" "--mcast-group 224.0.0.1" "--mcast-port 1" "--mcast-ttl 1" "--tun-info" "--tun-type ipip" "--tun-port 1" "--tun-nocsum" "--tun-csum" "--tun-remcsum" "-X" "-I 1" "-t 10.0.0.1:80" "-f 5" "-6")
for c in "-A" "-A -t 10.0.0.2:80 -p 50" "-E -t 10.0.0.99:80" "-D -t 10.0.0.99:80" "-L" "-L -c" "-L -t 10.0.0.1:80" "-L --timeout" "-L --daemon" "-S" "-R" "-Z -t 10.0.0.1:80" "-a -t 10.0.0.99:80" "-a -t 10.0.0.99:80 -r 10.1.0.9:80" "-e -t 10.0.0.99:80 -r 10.1.0.9:80" "-d -t 10.0.0.99:80 -r 10.1.0.77:80" "--set 1 2 3" "--stop-daemon master" "-C"; do
  for o in "${OPTIONS[@]}"; do
    case "$c $o" in
      # -b makes a server FULLNAT with Sluice
      "-a"*"-b flag-1" | "-e"*"-b flag-1") ;;
      *) x "ipvsadm $c $o" ;;
    esac
  done
done
