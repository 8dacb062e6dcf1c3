# What Dispatch asks of another computer about its commands there.
#
# Evaluated behind supervisor.sh, with parameters in variables and one of the
# functions from `start` on called behind it. Every answer is one line that
# begins with "dispatch" and the question's nonce: login shells say all sorts.

say() {
  printf 'dispatch %s %s\n' "$nonce" "$*"
}

# Goes to where the runs of this server are: where SFTP looks for them, which
# may begin elsewhere than a shell, or see other files.
enter_runs() {
  [ -n "$home" ] || home=$HOME
  (cd -- "$home") >/dev/null 2>&1 || {
    say no-home
    exit
  }
  trouble=$( (cd -- "$home" && mkdir -p ".cache/dispatch/runs/$installation") 2>&1) && cd -- "$home" && cd "./.cache/dispatch/runs/$installation" && return
  say refused "$(one_line "$trouble")"
  exit
}

# Sets their_epoch and their_attempt from the end of a directory's name.
rank() {
  their_epoch=${1%%.*} their_attempt=0
  case $1 in *.*) their_attempt=${1#*.} ;; esac
  case $their_epoch$their_attempt in *[!0-9]* | '') their_epoch=0 their_attempt=0 ;; esac
}

# Whether somebody who came after this start has looked for the call.
is_late() {
  for other in "$turn/$call"-e*; do
    [ "${other%-e*}" = "$turn/$call" ] || continue
    rank "${other##*-e}"
    if [ "$their_epoch" -gt "$epoch" ]; then return 0; fi
    if [ "$their_epoch" -eq "$epoch" ] && [ "$their_attempt" -gt "$attempt" ]; then return 0; fi
  done
  return 1
}

# Makes the directory; false if it was there. Its turn's may be swept meanwhile.
claim() {
  for again in 1 2 3; do
    trouble=$(mkdir -p "$turn" 2>&1 && mkdir "$turn/$name" 2>&1) && return 0
    [ ! -d "$turn/$name" ] || return 1
  done
  return 1
}

# Marks a directory in which nothing was and will be started.
close_claim() {
  run=$1 reason=claimed message= code= signal= dropped_bytes=0 survivors=0 output_bytes=0 newlines=0
  forget
  : >"$run/revoked"
  write_exit
}

# Runs a program in a session of its own, so that no hang-up reaches it. Not by
# `&` where that can be had: what is started so ignores SIGINT for ever.
detach() {
  setsid -f "$@" && return
  perl -e 'use POSIX; exit 0 if fork; POSIX::setsid(); exec @ARGV' "$@" && return
  if command -v setsid; then
    setsid "$@" &
  else
    trap '' HUP
    "$@" &
  fi
}

# Writes a file. No shell tells why a file takes no more, but cat does.
put() {
  printf '%s' "$2" 2>/dev/null >"$1" || printf '%s' "$2" | cat >"$1"
}

start() {
  enter_runs
  case $cwd in /*) ;; *) cwd=$home/$cwd ;; esac
  (cd -- "$cwd") >/dev/null 2>&1 || {
    say no-cwd
    return
  }
  claim || {
    if [ -d "$turn/$name" ]; then say exists; else say refused "$(one_line "$trouble")"; fi
    return
  }
  run=$(pwd)/$turn/$name
  if is_late; then
    close_claim "$run"
    say late
    return
  fi
  trouble=$( {
    put "$run/command" "$command" &&
      put "$run/cwd" "$cwd" &&
      put "$run/script" "$program" &&
      printf '%8192s' '' >"$run/reserve" &&
      printf 'version=1\nturn=%s\ncall=%s\nepoch=%s\nattempt=%s\nmark=%s\nstarted_ms=%s\ndeadline_ms=%s\nlimit_bytes=%s\nuser_umask=%s\n' \
        "$turn" "$call" "$epoch" "$attempt" "$mark" "$(now_ms)" "$deadline_ms" "$limit_bytes" "$user_umask" >"$run/meta.tmp" &&
      mv -f "$run/meta.tmp" "$run/meta"
  } 2>&1) || {
    # Nothing was started: as if it had never been asked.
    rm -rf "$run"
    say refused "$(one_line "$trouble")"
    return
  }
  # Comes back when the supervisor has closed its end: it is on its way then.
  began=$(
    exec 3>&1 >/dev/null 2>&1 </dev/null
    detach sh "$run/script" supervise "$run"
  )
  if [ "$began" = started ]; then
    say started
  elif [ -e "$run/exit" ] || [ -e "$run/pid" ] || [ -e "$run/revoked" ]; then
    say ended
  else
    : >"$run/revoked"
    bury "$run"
    say refused 'its supervisor could not be started'
  fi
}

# Ends whatever runs of the call, and lets nothing of it start any more.
kill_call() {
  enter_runs
  claim && close_claim "$turn/$name"
  for run in "$turn/$call"-e*; do
    [ "${run%-e*}" = "$turn/$call" ] && revoke "$run"
  done
  undead=
  for run in "$turn/$call"-e*; do
    [ "${run%-e*}" = "$turn/$call" ] && settle "$run"
  done
  if [ -n "$undead" ]; then say undead "$(one_line "$undead")"; else say over; fi
}

# Looks whether the supervisor of a run still lives, and buries it if not.
settle_run() {
  enter_runs
  run=$turn/$name
  forget
  [ ! -e "$run/pid" ] || . "$run/pid"
  if [ -e "$run/exit" ]; then
    say over
  elif is_same "$main" "$main_birth" && [ ! -e "$run/revoked" ]; then
    say alive
  else
    undead=
    revoke "$run"
    settle "$run"
    if [ -n "$undead" ]; then say undead "$(one_line "$undead")"; else say over; fi
  fi
}

# Names every run that was begun and has not ended.
list_runs() {
  enter_runs
  listed=0
  for run in */*-e*; do
    [ -e "$run/pid" ] && [ ! -e "$run/exit" ] || continue
    say run "$run"
    listed=$((listed + 1))
    [ "$listed" -lt 5000 ] || break
  done
  say over
}

# Ends the named runs. All are asked first: their grace runs side by side.
end_runs() {
  enter_runs
  for run in $wanted; do
    [ -d "$run" ] && revoke "$run"
  done
  for run in $wanted; do
    [ -d "$run" ] || continue
    undead=
    settle "$run"
    [ -z "$was_running" ] || say killed
    [ -z "$undead" ] || say undead "$(one_line "$undead")"
  done
  say over
}

# Removes what is beyond the bounds; the newest stay. What has not ended stays.
sweep() {
  enter_runs
  oldest_ms=$(($(now_ms) - max_age_ms))
  for run in */*-e*; do
    if [ -e "$run/exit" ]; then
      read -r line 2>/dev/null <"$run/exit" || continue
      ended=${line#*ended_ms=} bytes=${line#*output_bytes=}
      ended=${ended%% *} bytes=${bytes%% *}
      case $ended$bytes in '' | *[!0-9]*) ended=0 bytes=0 ;; esac
      echo "$ended $bytes $run"
    elif [ -d "$run" ] && [ ! -e "$run/pid" ] && [ -n "$(find "$run" -prune -mtime +1 2>/dev/null)" ]; then
      # Somebody died between making it and saying what for.
      echo "0 0 $run"
    fi
  done | sort -rn | {
    bytes=0 kept=0 removed=0
    while read -r ended more run; do
      case " $spared " in *" $run "*) continue ;; esac
      bytes=$((bytes + more))
      if [ "$kept" -lt "$max_runs" ] && [ "$bytes" -le "$max_bytes" ] && [ "$ended" -ge "$oldest_ms" ]; then
        kept=$((kept + 1))
      elif trouble=$(rm -rf "$run" 2>&1); then
        removed=$((removed + 1))
        rmdir "${run%/*}" 2>/dev/null
      else
        say failed "$(one_line "$trouble")"
      fi
    done
    say swept "$removed" "$kept"
  }
}

# Puts a file in another one's place, atomically.
replace() {
  if trouble=$(mv -f -- "$from" "$to" 2>&1); then say over; else say refused "$(one_line "$trouble")"; fi
}
