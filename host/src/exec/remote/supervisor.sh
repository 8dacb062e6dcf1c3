# Supervises a command on another computer: the far side of host/src/exec/remote.
#
# POSIX sh and the tools of any Unix. It is kept in a run directory while the
# command runs, and it is evaluated before verbs.sh, which needs its functions.
#
# A run directory holds (host/src/exec/remote/mod.rs tells who relies on what):
#   meta command cwd   what was asked; written before anything is started
#   pid                who runs it: supervisor and guard, by pid and birth
#   revoked            from now on nothing may be started here
#   alive              touched every 5 s for as long as the guard lives
#   output             standard output and error, bounded (D27)
#   exit               one line that tells how it ended; written last, by rename

: "${user_umask:=$(umask)}"
umask 077

# Any text as part of one line.
one_line() {
  printf '%s' "$*" | LC_ALL=C tr -c '[:print:]' ' '
}

now_ms() {
  at=$(date +%s%3N 2>/dev/null)
  case $at in
    '' | *[!0-9]*) at=$(date +%s)000 ;;
  esac
  printf '%s' "$at"
}

# A duration as sleep takes it: not every sleep knows fractions.
seconds() {
  if [ $(($1 % 1000)) -ne 0 ] && sleep 0.001 2>/dev/null; then
    printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
  else
    printf '%d' $((($1 + 999) / 1000))
  fi
}

nap() {
  sleep "0.$1" 2>/dev/null || sleep 1
}

# ---- Processes -------------------------------------------------------------

# Sets birth: what tells a process from a later one of the same pid.
born() {
  birth=
  if [ -r "/proc/$1/stat" ]; then
    read -r stat <"/proc/$1/stat" || return 1
    # The name in parentheses may hold anything.
    set -- ${stat##*) }
    # A zombie has ended.
    case $1 in [ZXx]) return 1 ;; esac
    shift 19 2>/dev/null || return 1
    birth=$1
    boot=
    read -r boot 2>/dev/null </proc/sys/kernel/random/boot_id
    birth=$birth@$boot
  else
    birth=$(ps -o lstart= -p "$1" 2>/dev/null | tr -cs '[:alnum:]' '.')
  fi
  [ -n "$birth" ]
}

is_same() {
  [ -n "$1" ] && [ -n "$2" ] && born "$1" && [ "$birth" = "$2" ]
}

# Living processes as pid:parent:session; the group where nobody tells sessions.
processes() {
  if [ -r /proc/self/stat ]; then
    LC_ALL=C sed -n 's/^\([0-9]*\) (.*) [^ZXx] \([0-9]*\) [0-9]* \([0-9]*\) .*/\1:\2:\3/p' /proc/[0-9]*/stat 2>/dev/null
  else
    ps -A -o pid= -o ppid= -o pgid= -o state= | while read -r pid parent group state; do
      case $state in Z*) ;; *) echo "$pid:$parent:$group" ;; esac
    done
  fi
}

# Those that carry the mark in their environment, whoever their parent is.
marked() {
  [ -r /proc/self/stat ] || return 0
  for file in $(LC_ALL=C grep -ls "DISPATCH_RUN_MARK=$mark" /proc/[0-9]*/environ 2>/dev/null); do
    file=${file#/proc/}
    printf '%s ' "${file%/environ}"
  done
}

# Sets members: the run's processes. They are those with its mark, the children
# of its supervisor ($1, empty when it is dead) that are not helpers, all that
# descends from those, and all that shares a session with one of them. What has
# cleared its environment, changed its session and lost its parent is not found.
find_members() {
  table=$(processes)
  found=" $(marked)"
  mine=
  for row in $table; do
    rest=${row#*:}
    if [ -n "$1" ] && [ "${row%%:*}" = "$1" ]; then mine=${rest#*:}; fi
    if [ -n "$1" ] && [ "${rest%%:*}" = "$1" ]; then
      case " $helpers " in
        *" ${row%%:*} "*) ;;
        *) found="$found${row%%:*} " ;;
      esac
    fi
  done
  sessions=' '
  grew=1
  while [ -n "$grew" ]; do
    grew=
    for row in $table; do
      pid=${row%%:*} rest=${row#*:}
      parent=${rest%%:*} session=${rest#*:}
      case $found in
        *" $pid "*)
          case "$sessions $mine 0 " in
            *" $session "*) ;;
            *) sessions="$sessions$session " grew=1 ;;
          esac
          continue
          ;;
      esac
      case "$found|$sessions" in
        *" $parent "*"|"* | *"|"*" $session "*)
          case " $helpers $1 " in
            *" $pid "*) ;;
            *) found="$found$pid " grew=1 ;;
          esac
          ;;
      esac
    done
  done
  members=
  for row in $table; do
    case $found in *" ${row%%:*} "*) members="$members ${row%%:*}" ;; esac
  done
}

# Ends the tree: SIGTERM, a grace in steps of about 50 ms, SIGKILL for at most
# 5 s. $1: the supervisor; with $3, goes on until that file says that the
# command is over, so that one that was about to be started is ended too.
end_tree() {
  step=0 told=' ' survivors=0
  while :; do
    find_members "$1"
    if [ -z "$members" ]; then
      if [ -z "${3-}" ] || [ -e "${3-}" ]; then return; fi
    fi
    if [ "$step" -lt "$2" ]; then
      for pid in $members; do
        case $told in
          *" $pid "*) ;;
          *) kill -TERM "$pid" 2>/dev/null; told="$told$pid " ;;
        esac
      done
    else
      [ -z "$members" ] || kill -KILL $members 2>/dev/null
    fi
    step=$((step + 1))
    if [ "$step" -gt $(($2 + 100)) ]; then
      survivors=$(set -- $members; echo $#)
      return
    fi
    nap 04
  done
}

# ---- The supervisor --------------------------------------------------------

supervise() {
  run=$1
  cd / || exit 1
  . "$run/meta" || exit 1
  command=$(cat "$run/command" && printf x) command=${command%x}
  cwd=$(cat "$run/cwd" && printf x) cwd=${cwd%x}
  block=512 launched= guard= helpers= patient=1
  if [ -n "${BASH_VERSION-}" ]; then
    # bash tells of signals in this mode only, and counts in other blocks.
    set +o posix
    block=1024
  fi
  born $$ && main_birth=$birth
  collect || {
    finish spawn-failed 'no pipes could be made on that computer'
    exit
  }
  guard &
  guard=$!
  born "$guard" && guard_birth=$birth
  # The order is the protocol: who revokes and then finds no pid may rely on
  # `revoked` being seen below.
  printf "main=%s main_birth='%s' guard=%s guard_birth='%s'\n" $$ "$main_birth" "$guard" "$guard_birth" >"$run/pid.tmp" &&
    mv -f "$run/pid.tmp" "$run/pid" || {
    finish spawn-failed 'the disk of that computer takes no more files'
    exit
  }
  if [ -e "$run/revoked" ]; then
    finish killed
    exit
  fi
  # Whoever started this waits for the end of this file.
  echo started >&3
  exec 3>&-
  launched=1
  # The shell tells on its own standard error when a signal ended the command,
  # and in no other way that differs from an exit code beyond 128.
  exec 2>"$run/ended"
  (launch </dev/null >"$run/pipe" 2>&1)
  status=$?
  exec 2>/dev/null
  finish exited
}

# Becomes the command.
launch() {
  umask "$user_umask"
  cd -- "$cwd" || exit
  export DISPATCH_RUN_MARK="$mark"
  shell=$(command -v bash || command -v sh)
  if command -v setsid >/dev/null; then
    exec setsid "$shell" -c "$command"
  else
    exec "$shell" -c "$command"
  fi
}

# The output goes to the file up to its limit; behind it, it is counted, and
# its end is kept: errors stand last. tee goes on when the file takes no more.
collect() {
  : >"$run/output"
  # Room for what is told by them, on a disk that may be full by then.
  printf '%64s\n' '' >"$run/total" && printf '%512s\n' '' >"$run/trouble" || return 1
  mkfifo "$run/pipe" "$run/count" "$run/last" || return 1
  tail -c 32768 3>&- <"$run/last" >"$run/end" &
  helpers="$!"
  wc -c 3>&- <"$run/count" 1<>"$run/total" &
  helpers="$helpers $!"
  (
    exec 3>&-
    trap '' XFSZ 2>/dev/null || trap '' 25
    ulimit -f $((limit_bytes / block)) 2>/dev/null
    exec tee "$run/output" "$run/count" <"$run/pipe" >"$run/last" 2<>"$run/trouble"
  ) &
  tee=$!
  helpers="$helpers $tee"
}

# Keeps the deadline, hears a request to stop, and shows that it lives. It ends
# the tree and leaves the rest to the supervisor, which waits for the command.
guard() {
  exec 3>&-
  asked=
  trap 'asked=1' TERM
  self=$(exec sh -c 'echo $PPID')
  helpers="$helpers $self"
  left=$deadline_ms
  while [ -z "$asked" ] && [ "$left" -gt 0 ]; do
    : >"$run/alive"
    kill -0 $$ 2>/dev/null || {
      bury "$run"
      exit
    }
    step=5000
    [ "$left" -gt 5000 ] || step=$left
    sleep "$(seconds "$step")" &
    pause=$!
    [ -n "$asked" ] || wait "$pause"
    kill "$pause" 2>/dev/null
    left=$((left - step))
    # Nobody can stop it any more whose directory was taken from it.
    [ -e "$run/meta" ] || asked=1
  done
  trap '' TERM
  if [ -n "$asked" ]; then
    : >"$run/killed"
    end_tree $$ 10 "$run/over"
  else
    : >"$run/late"
    end_tree $$ 40 "$run/over"
  fi
  [ "$survivors" -eq 0 ] || echo "$survivors" >"$run/survivors"
  : >"$run/cleared"
}

# Writes how it ended, once and last. $1: the reason, unless the guard had one.
finish() {
  reason=$1 message=${2-} survivors=0
  : >"$run/over"
  [ -e "$run/killed" ] || [ -e "$run/late" ] || kill -KILL "$guard" 2>/dev/null
  wait "$guard" 2>/dev/null
  if [ -e "$run/killed" ] || [ -e "$run/late" ]; then
    [ -e "$run/killed" ] && reason=killed || reason=deadline
    [ -e "$run/cleared" ] || end_tree $$ 0
    [ ! -s "$run/survivors" ] || read -r survivors <"$run/survivors"
  fi
  linger=
  drain
  measure
  code= signal=
  if [ "$reason" = exited ]; then
    if [ "$status" -gt 128 ] && [ -s "$run/ended" ]; then
      signal=$((status - 128))
    else
      code=$status
    fi
  fi
  write_exit
  cd "$run" && rm -f pipe count last end total trouble ended over cleared killed late survivors alive script pid.tmp
  cd /
  # A process in the background keeps its standard output: what it goes on
  # writing is taken until nobody holds it any more.
  [ -z "$linger" ] || exec cat <&5 >/dev/null 2>&1
}

# Waits until all output has come. A process in the background may hold it for
# ever (D28); then its rest is nobody's, but it is not to die of SIGPIPE.
drain() {
  if [ -z "$launched" ]; then
    # Nothing was started, so nobody will ever open the pipe.
    kill $helpers 2>/dev/null
    return
  fi
  for pause in 01 01 02 05 10 10 10 10; do
    ! has_come || return
    nap "$pause"
  done
  linger=1
  exec 4<>"$run/pipe" 5<"$run/pipe" 4>&-
  kill "$tee" 2>/dev/null
  for pause in 01 02 05 10 10 10 10 10 10 10; do
    ! has_come || return
    nap "$pause"
  done
}

# Whether the whole output has been taken; sets total then.
has_come() {
  read -r total <"$run/total" 2>/dev/null
  [ -n "$total" ]
}

# Sets output_bytes, dropped_bytes and newlines, and adds the end of an output
# that was too long behind a line that says what is missing.
measure() {
  output_bytes=$(($(wc -c <"$run/output" 2>/dev/null || echo 0)))
  has_come || total=$output_bytes
  dropped_bytes=$((total - output_bytes))
  if [ "$dropped_bytes" -gt 0 ] && [ "$output_bytes" -ge $((limit_bytes / block * block)) ]; then
    kept=$dropped_bytes
    [ "$kept" -le 32768 ] || kept=32768
    {
      printf '\n[... %d bytes dropped here: the output is longer than the limit of %d bytes ...]\n' \
        $((dropped_bytes - kept)) "$limit_bytes"
      tail -c "$kept" <"$run/end"
    } >>"$run/output" 2>/dev/null && dropped_bytes=$((dropped_bytes - kept))
    output_bytes=$(($(wc -c <"$run/output")))
  elif [ "$dropped_bytes" -gt 0 ]; then
    read -r trouble <"$run/trouble"
    message="the disk took no more output: ${trouble##*: }"
  fi
  newlines=$(($(wc -l <"$run/output" 2>/dev/null || echo 0)))
}

# The line of `exit`, from the variables; the message stands last: it is free.
# The reserve is there for a full disk, and a supervisor waits for more.
write_exit() {
  ended_ms=$(now_ms)
  line="version=1 ended_ms=$ended_ms output_bytes=$output_bytes dropped_bytes=$dropped_bytes newlines=$newlines \
reason=$reason code=$code signal=$signal survivors=$survivors started_ms=$started_ms deadline_ms=$deadline_ms \
message=$(one_line "$message")"
  rm -f "$run/reserve"
  for pause in 1 1 1 2 2 5 5 10 10 30; do
    if printf '%s\n' "$line" 2>/dev/null >"$run/exit.$$.tmp" && mv -f "$run/exit.$$.tmp" "$run/exit"; then
      return
    fi
    rm -f "$run/exit.$$.tmp"
    [ -n "${patient-}" ] || return 1
    sleep "$pause"
  done
}

# ---- Ending from outside ---------------------------------------------------

# Forgets what meta and pid of another run have set.
forget() {
  mark= started_ms=0 deadline_ms=0 main= main_birth= guard= guard_birth= helpers=
}

# Forbids the run and asks its guard to stop it.
revoke() {
  [ ! -e "$1/exit" ] || return 0
  : >"$1/revoked"
  forget
  [ ! -e "$1/pid" ] || . "$1/pid"
  if is_same "$main" "$main_birth" && is_same "$guard" "$guard_birth"; then
    kill -TERM "$guard"
  fi
}

# After revoke: waits until the run is over, and ends it where its supervisor
# cannot. Sets was_running. Takes some 13 s at most.
settle() {
  was_running=
  [ ! -e "$1/exit" ] || return 0
  forget
  tries=0
  while [ "$tries" -lt 160 ]; do
    [ -n "$main" ] || [ ! -e "$1/pid" ] || . "$1/pid"
    if [ -e "$1/exit" ]; then
      was_running=1
      return 0
    fi
    # One that comes later sees `revoked` and starts nothing.
    if [ -z "$main" ] && [ "$tries" -ge 10 ]; then break; fi
    [ -z "$main" ] || is_same "$main" "$main_birth" || break
    tries=$((tries + 1))
    nap 05
    # A signal can slip through between a look and a wait.
    if [ $((tries % 10)) -eq 0 ] && [ ! -e "$1/killed" ]; then revoke "$1"; fi
  done
  # It may have written this between the last look and its end.
  [ ! -e "$1/exit" ] || return 0
  bury "$1"
}

# Kills what a dead or wedged supervisor left, and writes its `exit` for it.
bury() {
  run=$1 message= code= signal= dropped_bytes=0
  forget
  [ ! -e "$run/meta" ] || . "$run/meta"
  [ ! -e "$run/pid" ] || . "$run/pid"
  if [ -n "$mark" ] && [ -n "$main" ]; then
    was_running=1
    reason=supervisor-lost
    if is_same "$main" "$main_birth"; then kill -KILL "$main" 2>/dev/null; fi
    if is_same "$guard" "$guard_birth" && [ "$guard" != "${self-}" ]; then kill -KILL "$guard" 2>/dev/null; fi
    end_tree '' 0
    if [ "$survivors" -gt 0 ]; then
      undead="processes$members of the run in $run do not die of SIGKILL; look at them with ps, they block in the kernel"
      return 1
    fi
  else
    reason=claimed
  fi
  survivors=0
  output_bytes=$(($(wc -c <"$run/output" 2>/dev/null || echo 0)))
  newlines=$(($(wc -l <"$run/output" 2>/dev/null || echo 0)))
  write_exit
}

if [ "${1-}" = supervise ]; then
  supervise "$2"
  exit
fi
