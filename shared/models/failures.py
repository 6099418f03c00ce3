"""Why there is no answer of a model: a name for each, with words for a person."""


class Failure(Exception):
    """There is no answer. `words` say why, and quote neither the model nor a customer."""

    code = "failed"
    words = "the model failed"
    can_be_retried = False
    # Whether the endpoint failed, and not only this question.
    is_endpoints = True

    def __init__(self, *, status: int | None = None, retry_after: float | None = None) -> None:
        self.status = status
        self.retry_after = retry_after
        super().__init__(self.code)


class Unreachable(Failure):
    code, words, can_be_retried = "unreachable", "the model could not be reached", True


class TimedOut(Failure):
    code, words = "timed_out", "the model did not answer in time"


class RateLimited(Failure):
    code, words, can_be_retried = "rate_limited", "the model is asked too often", True


class ServerFailed(Failure):
    code, words, can_be_retried = "server_failed", "the model's server failed", True


class BrokenOff(ServerFailed):
    """The connection broke after the request: the question may have been answered, and paid for."""


class Garbled(Failure):
    code, words, can_be_retried = "garbled", "the model's server sent what nobody can read", True


class RequestRefused(Failure):
    code, words = "request_refused", "the model's server refused the request"


class QuestionRefused(RequestRefused):
    """This text is too long or not to the server's liking: another question may be answered."""

    code, words, is_endpoints = "question_refused", "the model's server refused this question", False


class Resting(Failure):
    code, words, is_endpoints = "resting", "the model failed just now and is left alone for a while", False


class OverBudget(Failure):
    code, words, is_endpoints = "over_budget", "asking the model would take more tokens than a run may", False


class InvalidAnswer(Failure):
    code, words, is_endpoints = "invalid_answer", "the model's answer does not fit the question", False


class ModelRefused(Failure):
    code, words, is_endpoints = "model_refused", "the model declined to answer", False


class CutOff(Failure):
    code, words, is_endpoints = "cut_off", "the model's answer was cut off", False
