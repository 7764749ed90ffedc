"""RELIABILITY.md part 4, row by row: the tests that prove what is promised, and what is otherwise here on purpose."""

from __future__ import annotations

from typing import Final

HTTP = "tests/api/test_http.py::test_row"
DOCUMENT = "tests/api/test_documents.py::test_refused"
INPUT = "tests/api/test_bad_input.py::test_row"
TAKEN = "tests/api/test_input.py"
SOCKET = "tests/api/test_socket.py"
WORK = "tests/api/test_work.py"
FORGED = "tests/api/test_tokens.py::TestForged"
COMMANDS = "tests/cli/test_rows.py"
COMMAND = "tests/cli/test_commands.py"
SETTINGS = "tests/settings/test_settings.py"
UNITS = "tests/sql/test_units.py"

ALL: Final = ("tests/e2e/test_abuse.py::test_a_hundred_times",)
"""The rule for every row: a sample of each that is one request."""

ROWS: Final[dict[int, tuple[str, ...]]] = {
    **dict.fromkeys(range(1, 10), ("tests/api/test_errors.py::test_bad_body", HTTP)),
    10: (HTTP, "tests/api/test_errors.py::TestBodyLimit::test_chunked"),
    **dict.fromkeys((11, 12, 13, 14, 15, 17, 18, 19, 21), (HTTP,)),
    16: ("tests/api/test_http.py::test_slow", "tests/api/test_errors.py::TestBodyLimit::test_slow"),
    20: ("tests/api/test_http.py::test_request_id",),
    **dict.fromkeys(range(22, 34), (DOCUMENT,)),
    34: ("tests/api/test_documents.py::test_introspection",),
    **dict.fromkeys((35, 36, 37), (DOCUMENT,)),
    38: (DOCUMENT, "tests/api/test_documents.py::test_extra_variable"),
    **dict.fromkeys((39, 44, 52, 54, 55, 56, 59), (INPUT,)),
    40: (INPUT, "tests/e2e/test_plant.py::test_unknown_type"),
    41: (INPUT, f"{TAKEN}::TestPayload::test_largest", f"{TAKEN}::TestPayload::test_depth"),
    42: (f"{TAKEN}::TestPayload::test_round_trip", f"{TAKEN}::TestPayload::test_every_byte"),
    43: (INPUT, f"{TAKEN}::TestPayload::test_round_trip"),
    45: (INPUT, f"{TAKEN}::TestTimes::test_past"),
    46: (INPUT, f"{TAKEN}::TestTimes::test_taken"),
    47: (INPUT, "tests/model/test_backoff.py::test_a_delay_is_between_zero_and_the_cap"),
    48: (INPUT,),
    49: (),
    50: (),
    51: (INPUT, f"{TAKEN}::TestMany::test_all_or_nothing"),
    53: (INPUT, "tests/tasks/test_one.py::test_a_run_is_asked_to_stop"),
    57: (INPUT,),
    58: (INPUT,),
    60: (INPUT, "tests/model/test_cron.py::test_what_is_no_expression_or_never_fires_is_refused_with_a_sentence"),
    61: (INPUT, "tests/model/test_cron.py::test_a_zone_that_is_not_in_the_database_is_refused"),
    62: (
        "tests/api/test_schedules.py::test_a_name_that_is_taken_and_a_quota_that_is_full_are_conflicts",
        "tests/tasks/test_schedules.py::test_a_user_has_no_more_schedules_than_the_quota",
    ),
    63: (
        "tests/tasks/test_fire.py::test_an_edit_at_the_same_time_as_the_fire_comes_before_or_after",
        "tests/tasks/test_fire.py::test_deleted_between_plan_and_fire_nothing_is_made",
    ),
    64: ("tests/api/test_users.py::TestSameAnswer::test_login",),
    65: (
        "tests/api/test_users.py::TestPasswordsTaken::test_too_long",
        "tests/api/test_users.py::TestPasswordsTaken::test_nul",
        "tests/api/test_users.py::TestPasswordsTaken::test_unicode_forms",
    ),
    66: (
        "tests/api/test_limits.py::test_the_sixth_failed_login",
        "tests/api/test_limits.py::test_logins_of_one_address",
        "tests/api/test_limits.py::test_forged_addresses",
    ),
    67: (DOCUMENT,),
    **dict.fromkeys((68, 69, 70), (f"{FORGED}::test_refused",)),
    71: (
        "tests/api/test_users.py::TestEnding::test_bounded",
        "tests/api/test_users.py::TestEnding::test_elsewhere",
        "tests/api/test_users.py::TestPassword::test_logout_everywhere",
    ),
    72: (),
    73: (
        f"{FORGED}::test_other_credentials",
        f"{FORGED}::test_two_headers",
        f"{FORGED}::test_huge",
        f"{FORGED}::test_lenient_forms",
    ),
    74: ("tests/api/test_roles.py::TestTable::test_holds", f"{WORK}::test_a_run_of_another_worker"),
    75: (INPUT,),
    76: (f"{WORK}::test_a_wrong_fence", f"{WORK}::test_a_fence_of_the_run_before"),
    77: (f"{WORK}::test_complete_twice",),
    78: (f"{WORK}::test_a_run_of_another_worker",),
    79: (f"{WORK}::test_a_claim_that_is_refused", f"{WORK}::test_a_queue_that_nobody_uses"),
    80: (
        f"{WORK}::test_progress_is_coalesced_and_clamped",
        f"{WORK}::test_what_a_run_says",
        f"{WORK}::test_log_lines_that_are_refused",
        "tests/runner/test_text.py::test_a_log_message_is_bounded_after_it_is_escaped",
    ),
    81: (
        "tests/e2e/test_abuse.py::test_handlers_that_do_what_none_should",
        "tests/runner/test_executor.py::test_what_is_no_json_is_result_invalid",
        "tests/runner/test_executor.py::test_any_exception_is_a_failed_run",
        "tests/runner/test_executor.py::test_long_texts_are_cut",
    ),
    82: (f"{COMMAND}::test_a_wrong_option_is_one_line",),
    83: (f"{COMMANDS}::test_row_83_a_file_of_settings_that_is_wrong", f"{SETTINGS}::test_a_wrong_file_is_one_line", f"{COMMAND}::test_a_wrong_setting_is_one_line"),
    84: (
        f"{COMMANDS}::test_row_84_a_server_that_is_wrong",
        f"{UNITS}::test_a_wrong_url_is_one_line_without_the_password",
        f"{UNITS}::test_a_schema_that_is_not_ours_is_refused",
        f"{UNITS}::test_an_empty_database_needs_a_migration",
        f"{SETTINGS}::test_a_password_is_never_shown",
        "tests/index/test_connect.py::test_an_error_shows_no_password",
    ),
    85: (f"{COMMANDS}::test_row_85_closed_streams", f"{COMMANDS}::test_row_85_nobody_reads", f"{COMMANDS}::test_row_85_a_terminal_of_any_width", f"{COMMAND}::test_a_closed_standard_output_gives_no_traceback", f"{COMMAND}::test_odd_terminals"),
    86: (f"{COMMANDS}::test_row_86_what_cannot_be_read", f"{COMMANDS}::test_row_86_what_can_be_read"),
    87: (f"{COMMANDS}::test_row_87_ctrl_c", f"{COMMANDS}::test_row_87_ctrl_c_while_watching", "tests/e2e/test_up.py::test_ctrl_c", f"{COMMAND}::test_how_a_service_ends"),
    88: (f"{COMMANDS}::test_row_88_two_at_once", f"{COMMANDS}::test_row_88_killed_half_way", f"{UNITS}::test_two_migrations_at_once", f"{UNITS}::test_a_migration_that_was_cut_off_is_run_again"),
    89: (f"{SOCKET}::test_misused", f"{SOCKET}::test_protocol"),
    90: (
        f"{SOCKET}::test_misused",
        f"{SOCKET}::test_no_init",
        f"{SOCKET}::test_origin",
        f"{SOCKET}::test_protocol",
    ),
    91: (f"{SOCKET}::test_misused", f"{SOCKET}::test_flood_of_frames"),
    92: (f"{SOCKET}::test_token_runs_out", f"{SOCKET}::test_login_ends", f"{SOCKET}::test_key_is_revoked"),
    93: ("tests/api/test_live.py::TestSlowClient::test_never_reads", f"{SOCKET}::test_others_go_on"),
}  # fmt: skip

OTHERWISE: Final[dict[int, str]] = {
    8: "In the payload, 2^53 + 1 and larger integers are taken and kept digit by digit (row 42).",
    41: "Keys are not counted: an object of 256 KiB has no more of them than can be handled.",
    47: "A task has no timeout or backoff of its own: the handler's and the installation's count.",
    48: "There are no idempotency keys of callers (roadmap). What is sent as one is refused, not left aside.",
    49: "As 48.",
    50: "As 48.",
    53: "A FAILED task can be cancelled: it is never retried then.",
    55: "`after` of a foreign or absent task is a place in the order, and tells nothing: what it named may be gone.",
    56: "No filter takes a list, and nothing is sorted by a column that the caller names.",
    57: "There is no search (roadmap).",
    58: "There are no tags (roadmap).",
    59: "There are no tenants: a queue belongs to the installation, and what a user sees in it are own tasks.",
    72: "There are no refresh tokens: a login ends with its access token (roadmap).",
    74: "A WORKER reads no task at all: a claim hands over what it needs.",
    75: "There are no tenants (roadmap).",
    81: "A datetime, an Enum and other values with a form in JSON are results; secrets in the texts of a user's own "
    "exceptions are the user's: they are cut, and not searched.",
    92: "Within 5 seconds, not 30.",
}
"""What our answer to a row differs in, and what is not there to be answered."""
